"""What a compression technique is: hyperparameters and the moments at which it touches a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from compress_exp.config.checks import FieldError, check_number, nearest
from compress_exp.config.identity import later, origin, settings
from compress_exp.config.train import TrainConfig
from compress_exp.losses.base import Loss
from compress_exp.methods.course import Course
from compress_exp.methods.select import OUTSIDE_BLOCKS, Select
from compress_exp.models.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compress_exp.tasks.base import Task


@dataclass(frozen=True)
class Facts:
    """What is known of a model before it exists; a stage's `check` turns the parent's facts into its own.

    Attributes:
        family: its architecture.
        layers: layers of each stack.
        vocabulary: entries of its embedding; None until a tokenizer is trained.
        heads: attention heads (key-value heads where queries share them) of a layer of each stack; None where they may
            differ from layer to layer.
        neurons: width of the feed-forward part of a layer of each stack; None likewise.
        pruned: some of its zeros are to be kept.
        packed: the name of the method that packed its weights, after which nothing trains.
        first: no stage has run yet.
        widths: inputs of the projections that play a role, where they are known.
        queries: heads of queries for each of `heads`.
        skeleton: builds the dense model on the meta device, shapes without weights; None where random weights wait for
            a tokenizer, and once a stage has run.
    """

    family: Family
    layers: dict[str, int]
    vocabulary: int | None
    heads: dict[str, int] | None = None
    neurons: dict[str, int] | None = None
    pruned: bool = False
    packed: str | None = None
    first: bool = True
    widths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    queries: int = 1
    skeleton: Callable[[], PreTrainedModel] | None = None


@dataclass(frozen=True)
class Context:
    """What a method may use beside the model.

    Attributes:
        family: its architecture.
        task: gives targets and collates rows.
        tokenizer: what the result of the stage reads with.
        parent_tokenizer: what the model reads with before `prepare`; the same unless a method changes it.
        seed: of everything random.
        device: where the model is.
        steps: optimiser steps of one training of the stage; 0 where nothing trains.
        baseline: loads the dense model.
        pretrained: loads what the baseline began from.
        calibration: so many batches of 32 seeded training rows; of several ranks each sees its own rows.
        directory: keeps the stage's own files through a kill.
    """

    family: Family
    task: Task
    tokenizer: PreTrainedTokenizerBase
    parent_tokenizer: PreTrainedTokenizerBase
    seed: int
    device: torch.device
    steps: int
    baseline: Callable[[], PreTrainedModel]
    pretrained: Callable[[], PreTrainedModel]
    calibration: Callable[[int], list[dict[str, Tensor]]]
    directory: Path


@dataclass(frozen=True, kw_only=True)
class Method:
    """One technique; all its state lives in the model.

    Attributes:
        name: how tables call it, family/variant.
        train: its training budget; `max_steps=0` makes it post-training.
        select: the weights that it works on.
        start: progress of the stage at which it begins.
        end: progress of the stage at which it is done.
        rounds: how often the budget is repeated; progress is held at r/rounds through round r.
        rewind: null, or the share of the budget, in [0, 1), to whose weights every round ends by going back: round r
            then trains at progress (r − 1)/rounds, is cut to r/rounds and rewound, and one more training follows.
        loss: what its training minimises, by name; null takes the root's `loss`.
        version: raised when the same settings come to give another result.
        preserves_sparsity: what earlier stages pruned stays pruned.
        replaces_model: it changes shapes, or gives another model, before training: first among methods at once.
        unused: settings of `Method` that it does not know; they must stay at their defaults.
    """

    name: str
    train: TrainConfig
    select: Select = field(default_factory=Select)
    start: float = later(0.0, before=0.0)
    end: float = later(1.0, before=1.0)
    rounds: int = later(1, before=1)
    rewind: float | None = later(None, before=None)
    loss: dict[str, Loss] | None = None

    version: ClassVar[int] = 1
    preserves_sparsity: ClassVar[bool] = True
    replaces_model: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name in self.unused and (value := getattr(self, item.name)) != item.default:
                usual = "null" if item.default is None else item.default
                raise FieldError(item.name, f"{value!r} means nothing to {self.name}; leave it at {usual}")
        check_number("start", self.start, 0, 1)
        check_number("end", self.end, 0, 1)
        if self.start > self.end:
            raise FieldError("start", f"{self.start} lies after end={self.end}")
        check_number("rounds", self.rounds, 1)
        if self.rounds > 1 and self.family != "prune":
            raise FieldError("rounds", f"{self.rounds} rounds are for pruning; set 1")
        if self.rounds > 1 and not self.trains:
            raise FieldError("rounds", f"{self.rounds} rounds need training; set train.max_steps above 0 or rounds=1")
        if self.rewind is not None:
            check_number("rewind", self.rewind, 0, 0.999)
            if self.family != "prune":
                raise FieldError("rewind", f"{self.rewind:g} is for pruning; set null")
            if not self.trains:
                raise FieldError("rewind", "rewinding needs training; set train.max_steps above 0 or rewind=null")

    @property
    def family(self) -> str:
        """The family that it belongs to: prune, quant, distill, factorize, share or finetune."""
        return self.name.partition("/")[0]

    @property
    def trains(self) -> bool:
        """Whether it has a training budget."""
        return self.train.trains

    @property
    def course(self) -> Course:
        """How often the budget is spent, and how."""
        return Course(self.rounds + (self.rewind is not None), self.rounds, self.rewind)

    @property
    def largest_code(self) -> int | None:
        """The largest integer that its result multiplies with unsigned 8-bit inputs; None where it does not."""
        return None

    @property
    def starts_from(self) -> str:
        """What it compresses: "parent", "pretrained" or "other" (a model of its own)."""
        return "parent"

    def identity(self) -> dict[str, Any]:
        """What decides its result, for the key of the artifact."""
        return origin(type(self)) | settings(self, without={"name", "loss", *(() if self.trains else ("train",))})

    def check(self, facts: Facts) -> Facts:
        """Refuse, in one sentence, a parent that this method cannot take; tell what comes out.

        Raises:
            FieldError: naming a setting, and what to do.
        """
        if facts.packed and self.starts_from == "parent":
            raise FieldError(
                "", f"nothing can follow {facts.packed}, whose weights are packed; put {facts.packed} last"
            )
        if facts.pruned and not self.preserves_sparsity:
            raise FieldError("", f"{self.name} would undo the pruning before it; put it first")
        known = {*facts.family.roles.values(), *OUTSIDE_BLOCKS}
        for role in self.select.roles or ():
            if role not in known:
                raise FieldError("select.roles", f"{role!r} is no role; {nearest(role, sorted(known))}")
        return replace(facts, first=False, skeleton=None)

    def retokenize(
        self, tokenizer: PreTrainedTokenizerBase, features: Sequence[dict[str, Any]]
    ) -> PreTrainedTokenizerBase:
        """The tokenizer that its result reads with, given the parent's and the training rows in its ids."""
        return tokenizer

    def prepare(self, model: PreTrainedModel, context: Context) -> PreTrainedModel:
        """Insert masks, fake quantizers or factors; or return another model."""
        return model

    def begin(self, model: PreTrainedModel) -> None:
        """Before the first step of a training, also of one that goes on: refuse what cannot be trained.

        Raises:
            UserError: one sentence.
        """

    def parameter_groups(self, model: PreTrainedModel) -> list[dict[str, Any]]:
        """Parameters of its own with their own learning rate, in the optimiser's format."""
        return []

    def penalty(self, model: PreTrainedModel, progress: float) -> Tensor | None:
        """A term added to the loss; progress is the method's own."""
        return None

    def step(self, model: PreTrainedModel, progress: float) -> None:
        """After backward, before the optimiser step; progress is the method's own, exactly 1 from `end` on."""

    def after_step(self, model: PreTrainedModel, learning_rate: float) -> None:
        """After the optimiser step."""

    def rewound(self, model: PreTrainedModel, last: bool) -> None:
        """After the weights went back; `last` before the final training."""

    def finish(self, model: PreTrainedModel) -> None:
        """Once, when nothing trains any more: decide what training left open."""

    def convert(self, model: PreTrainedModel) -> PreTrainedModel:
        """Make it permanent: ordinary modules, or modules of `layers/`."""
        return model

    def curves(self, model: PreTrainedModel) -> dict[str, float]:
        """Numbers worth a curve."""
        return {}

    def own_progress(self, progress: float) -> float:
        """The stage's progress as this method's own, from 0 at `start` to 1 at `end`; in rounds it is the stage's."""
        if self.course.held:
            return progress
        if progress >= self.end:
            return 1.0
        return 0.0 if progress <= self.start else (progress - self.start) / (self.end - self.start)

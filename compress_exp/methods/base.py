"""What a compression technique is: hyperparameters and the moments at which it touches a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from compress_exp.config.checks import FieldError, nearest
from compress_exp.config.identity import origin, settings
from compress_exp.config.recovery import Recovery
from compress_exp.config.train import TrainConfig
from compress_exp.losses.base import Loss
from compress_exp.methods.context import Context, Work
from compress_exp.methods.course import Course
from compress_exp.methods.parametrized import copied
from compress_exp.methods.prepared import Prepared
from compress_exp.methods.select import OUTSIDE_BLOCKS, Select
from compress_exp.models.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
        factored: the name of the method that factored its projections.
        shared: the name of the method by which layers share their weights.
        packed: the methods that packed some of its weights, after which nothing trains, and which weights those are.
        rounded: the name of the method that rounded every parameter to bfloat16; None where they are float32.
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
    factored: str | None = None
    shared: str | None = None
    packed: tuple[tuple[str, Select], ...] = ()
    rounded: str | None = None
    first: bool = True
    widths: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    queries: int = 1
    skeleton: Callable[[], PreTrainedModel] | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """One technique; all its state lives in the model.

    Attributes:
        name: how tables call it, family/variant.
        train: its training budget; `max_steps=0` makes it post-training.
        select: the weights that it works on.
        loss: what its training minimises, by name; null takes the root's `loss`.
        recovery: which parameters train; null takes the root's `recovery`.
        version: raised when the same settings come to give another result.
        preserves_sparsity: what earlier stages pruned stays pruned.
        replaces_model: it changes shapes, or gives another model, before training: first among methods at once.
        moves_weights: it moves the weights themselves, which an adapter would freeze.
        packs: its result no longer trains as it is: last among methods at once.
    """

    name: str
    train: TrainConfig
    select: Select = field(default_factory=Select)
    loss: dict[str, Loss] | None = None
    recovery: Recovery | None = None

    version: ClassVar[int] = 1
    preserves_sparsity: ClassVar[bool] = True
    replaces_model: ClassVar[bool] = False
    moves_weights: ClassVar[bool] = False
    packs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        course = self.course
        if course.held and not self.trains:
            if course.rounds > 1:
                told = f"{course.rounds} rounds need training; set train.max_steps above 0 or rounds=1"
                raise FieldError("rounds", told)
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
        return Course()

    @property
    def largest_code(self) -> int | None:
        """The largest integer that its result multiplies with unsigned 8-bit inputs; None where it does not."""
        return None

    @property
    def starts_from(self) -> str:
        """What it compresses: "parent", "pretrained" or "other" (a model of its own)."""
        return "parent"

    def expand(self) -> tuple[Method, ...]:
        """What it is done by, each a stage of its own with an artifact and a share of the budget; mostly itself alone.

        A stage has one course, one set of losses, one optimiser; what needs more of them expands.
        """
        return (self,)

    def identity(self) -> dict[str, Any]:
        """What decides its result, for the key of the artifact."""
        return origin(type(self)) | settings(
            self, without={"name", "loss", "recovery", *(() if self.trains else ("train",))}
        )

    def check(self, facts: Facts) -> Facts:
        """Refuse, in one sentence, a parent that this method cannot take; tell what comes out.

        Raises:
            FieldError: naming a setting, and what to do.
        """
        if facts.packed and self.starts_from == "parent":
            self._check_beside(facts)
        if facts.rounded and self.packs:
            raise FieldError("", f"{facts.rounded} before it rounded every weight; leave one of the two out")
        if facts.pruned and not self.preserves_sparsity:
            raise FieldError("", f"{self.name} would undo the pruning before it; put it first")
        known = {*facts.family.roles.values(), *OUTSIDE_BLOCKS}
        for role in self.select.roles or ():
            if role not in known:
                raise FieldError("select.roles", f"{role!r} is no role; {nearest(role, sorted(known))}")
        packed = (*facts.packed, (self.name, self.select)) if self.packs else facts.packed
        return replace(facts, first=False, skeleton=None, packed=packed)

    def _check_beside(self, facts: Facts) -> None:
        """Where weights are packed already, others can be packed without training, and nothing else can be done."""
        last = facts.packed[-1][0]
        if self.trains or not self.packs:
            raise FieldError("", f"nothing can follow {last}, whose weights are packed; put {last} last")
        known = (*facts.family.roles.values(), *OUTSIDE_BLOCKS)
        left = {role for role in known if self.select.may_take(role)}
        left -= {role for role in left for _, select in facts.packed if select.takes_all(role)}
        if not left:
            raise FieldError("select", f"every weight that it takes was packed by {last}; give the two different roles")

    def retokenize(
        self, tokenizer: PreTrainedTokenizerBase, features: Sequence[dict[str, Any]]
    ) -> PreTrainedTokenizerBase:
        """The tokenizer that its result reads with, given the parent's and the training rows in its ids."""
        return tokenizer

    def fit(self, model: PreTrainedModel, context: Context) -> Prepared | None:
        """Decide on data what is to be inserted: it may be slow and is done once, whatever is killed.

        Args:
            model: may be changed, and is thrown away.
            context: what may be used beside it; random numbers of the process are seeded for this call.

        Returns:
            What was decided; None where settings and weights say it all.
        """
        return None

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Insert masks, fake quantizers or factors; or give another model.

        Args:
            model: is changed.
            spec: that of `fit`, empty where it gave None; its tensors are loaded afterwards.
            context: no rows of it are looked at and no random number is drawn, so that every rank, and every process
                that goes on, inserts the same.
        """
        return model

    def prepare(self, model: PreTrainedModel, context: Context) -> PreTrainedModel:
        """`fit` and `insert` in one, where nothing is kept: in notebooks and tests."""
        prepared = self.fit(copied(model), context) or Prepared()
        model = self.insert(model, prepared.spec, context)
        prepared.load(model)
        return model

    def begin(self, work: Work) -> None:
        """Before the first step of a training, also of one that goes on: refuse what cannot be trained.

        Raises:
            UserError: one sentence.
        """

    def batch(self, work: Work, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Before the forward pass, without gradients: the batch that student and teacher see."""
        return batch

    def parameter_groups(self, work: Work) -> list[dict[str, Any]]:
        """Parameters of its own with their own learning rate, in the optimiser's format."""
        return []

    def penalty(self, work: Work) -> Tensor | None:
        """A term added to the loss."""
        return None

    def step(self, work: Work) -> None:
        """After backward, before the optimiser step; and once at progress 1 where nothing trains."""

    def after_step(self, work: Work) -> None:
        """After the optimiser step."""

    def rewound(self, work: Work) -> None:
        """After the weights went back; at progress 1 the final training follows."""

    def finish(self, work: Work) -> None:
        """Once, when nothing trains any more: decide what training left open."""

    def convert(self, work: Work) -> PreTrainedModel:
        """Make it permanent: ordinary modules, or modules of `layers/`."""
        return work.model

    def curves(self, work: Work) -> dict[str, float]:
        """Numbers worth a curve."""
        return {}

    def own_progress(self, progress: float) -> float:
        """The stage's progress as this method's own, from 0 to exactly 1."""
        return progress

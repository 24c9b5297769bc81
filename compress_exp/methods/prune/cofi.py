"""CoFi (Xia, Zhong & Chen 2022, arXiv:2204.00408): coarse and fine gates that close together while the model trains.

Hard concrete gates (see `compress_exp.methods.prune.l0`) multiply every attention head, every feed-forward neuron, and
each attention and feed-forward part as a whole; a unit is open where its own gate and its part's are. The share ŝ that
is expected to go follows the target t, which rises linearly until `end`, by the penalty λ₁(ŝ − t) + λ₂(ŝ − t)², whose
multipliers ascend while all else descends. After training units are ranked by how open they are, exactly the amount
goes, and the tensors shrink; what was half open is multiplied in.
Deviations: no gate on hidden dimensions; every part keeps one head or `multiple` neurons, closed parts too; the paper's
layer distillation is the loss's affair (`loss=soft_targets`) and its final finetuning another stage's
(`method=[prune/cofi,finetune]`). Defaults: rate of gates and multipliers 0.1.
Cost: one number and two moments for every head and neuron; a product with each projection out of them in every step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from compress_exp.config.checks import FieldError, check_number
from compress_exp.layers.heads import attentions
from compress_exp.layers.neurons import feed_forwards
from compress_exp.layers.shapes import settle
from compress_exp.layers.slices import Slice
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import Gate, attach, bake, owned
from compress_exp.methods.prune.common.amount import ToAmount, content, shapes_of
from compress_exp.methods.prune.common.units import Unit, check_removable, chosen, how_many, in_order, refuse_shared
from compress_exp.methods.prune.l0 import OPEN, open_probability, sampled, stretched
from compress_exp.methods.window import Window
from compress_exp.models.families.base import Family, is_conv1d
from compress_exp.parallel import seeds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("compress_exp")
MULTIPLIERS = "compress_exp_multipliers"


class UnitGate(Gate):
    """Multiplies what the units of a part hand to the projection out of it, as columns of that projection's weight.

    Args:
        part: heads or neurons.
        axis: the weight's axis of input channels.
        seed: of the draws.

    Attributes:
        log_alpha: one per unit.
        whole: that of the part as a whole.
        costs: of each unit, as `Slice.costs` gives them before it is gated, (units, 3).
        keep: what stays, (units,), decided when the training is over.
        draw: the number of the present draw, from which every evaluation within a step draws the same gates.
    """

    costs: Tensor
    keep: Tensor
    draw: Tensor

    def __init__(self, part: Slice, axis: int, seed: int) -> None:
        super().__init__()
        self.axis = axis
        self.log_alpha = nn.Parameter(torch.full((part.count,), OPEN))
        self.whole = nn.Parameter(torch.tensor(OPEN))
        self.register_buffer("costs", part.costs())
        self.register_buffer("keep", torch.ones(part.count, dtype=torch.bool))
        self.register_buffer("draw", torch.tensor(seed))

    def forward(self, weight: Tensor) -> Tensor:
        """Scale the columns of each unit; drawn while training."""
        gates = (self.z() if self.training else self.fixed()) * self.keep
        columns = gates.repeat_interleave(weight.shape[self.axis] // len(gates))
        return weight * (columns if self.axis == 1 else columns.unsqueeze(1))

    def z(self) -> Tensor:
        """The gates of the present draw, (units,)."""
        generator = torch.Generator(self.whole.device).manual_seed(int(self.draw))
        uniform = torch.rand(len(self.log_alpha) + 1, generator=generator, device=self.whole.device)
        uniform = uniform.clamp(1e-6, 1 - 1e-6)
        return sampled(self.log_alpha, uniform[1:]) * sampled(self.whole, uniform[0])

    def fixed(self) -> Tensor:
        """The gates outside training, (units,)."""
        return stretched(self.log_alpha.sigmoid()) * stretched(self.whole.sigmoid())

    def openness(self) -> Tensor:
        """P(z ≠ 0) of each unit, (units,)."""
        return open_probability(self.log_alpha) * open_probability(self.whole)

    def kept(self, weight: Tensor) -> Tensor:
        """Everything: what is closed goes with its tensor's columns, and leaves no zeros that are to be kept."""
        return torch.ones_like(weight, dtype=torch.bool)


class Multipliers(nn.Module):
    """λ₁ and λ₂ of the Lagrangian.

    Args:
        target: the share that is to go.
        content: parameters and bytes of the model before anything goes.
    """

    target: Tensor
    content: Tensor

    def __init__(self, target: float, content: tuple[float, float]) -> None:
        super().__init__()
        self.register_buffer("content", torch.tensor(content, dtype=torch.float64))
        self.linear = nn.Parameter(torch.zeros(()))
        self.square = nn.Parameter(torch.zeros(()))
        self.register_buffer("target", torch.tensor(target))


@dataclass(frozen=True, kw_only=True)
class CofiPruning(ToAmount, Window, Method):
    """Close heads, neurons and whole parts together, to an amount.

    Attributes:
        score_learning_rate: of gates and multipliers, which follow the same warm-up and decay as the weights.
        multiple: what is left of a layer's neurons is a multiple of it.
    """

    origin: ClassVar[str] = "prune/cofi"

    score_learning_rate: float = 0.1
    multiple: int = 8

    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("score_learning_rate", self.score_learning_rate, 0)
        check_number("multiple", self.multiple, 1)
        if not self.trains:
            raise FieldError("train", "gates are learned; set max_steps or epochs above 0")
        _ = self.amount

    def check(self, facts: Facts) -> Facts:
        """Layers may differ afterwards."""
        after = super().check(facts)
        refuse_shared(facts)
        model = shapes_of(facts, self.amount, self.select)
        if model is not None:
            check_removable(self.amount, self._parts(model, facts.family), self.multiple, model)
        return replace(after, heads=None, neurons=None, widths={})

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Gate every part, and find the share that the amount means."""
        parts = self._parts(model, context.family)
        costs, whole = [part.costs() for part in parts], content(model)
        going = self._going(parts, [torch.ones(part.count) for part in parts], costs, *whole)
        share = sum(unit.costs[0] for unit in going) / float(torch.cat(costs)[:, 0].sum())
        model.add_module(MULTIPLIERS, Multipliers(share, whole).to(context.device))
        for index, part in enumerate(parts):
            gate = UnitGate(part, 0 if is_conv1d(part.output) else 1, seeds.derived(context.seed, index))
            gate.owner = self.name
            attach([part.output], gate.to(context.device))
        return model

    def parameter_groups(self, work: Work) -> list[dict[str, Any]]:
        """Gates descend, multipliers ascend."""
        gates = [score for _, gate in owned(work.model, self.name, UnitGate) for score in (gate.log_alpha, gate.whole)]
        common = {"lr": self.score_learning_rate, "weight_decay": 0.0}
        multipliers = list(work.model.get_submodule(MULTIPLIERS).parameters())
        return [{"params": gates, **common}, {"params": multipliers, **common, "maximize": True}]

    def penalty(self, work: Work) -> Tensor:
        """λ₁(ŝ − t) + λ₂(ŝ − t)²."""
        multipliers = self._multipliers(work.model)
        beyond = self.expected(work.model) - work.progress * multipliers.target
        return multipliers.linear * beyond + multipliers.square * beyond.square()

    def expected(self, model: PreTrainedModel) -> Tensor:
        """ŝ, the share of the parameters whose gates are expected to be closed."""
        gates = [gate for _, gate in owned(model, self.name, UnitGate)]
        entries = torch.cat([gate.costs[:, 0] for gate in gates]).float()
        return 1 - (torch.cat([gate.openness() for gate in gates]) * entries).sum() / entries.sum()

    def after_step(self, work: Work) -> None:
        """The next draw."""
        for _, gate in owned(work.model, self.name, UnitGate):
            gate.draw += 1

    def finish(self, work: Work) -> None:
        """Decide what goes."""
        gates = {id(module): gate for module, gate in owned(work.model, self.name, UnitGate)}
        parts = self._parts(work.model, work.context.family)
        own = [gates[id(part.output)] for part in parts]
        openness = [gate.openness().double().cpu() for gate in own]
        whole = self._multipliers(work.model).content.tolist()
        for gate in own:
            gate.keep.fill_(True)
        for unit in self._going(parts, openness, [gate.costs.cpu() for gate in own], *whole):
            for part, members in unit.members:
                gates[id(part.output)].keep[list(members)] = False

    def convert(self, work: Work) -> PreTrainedModel:
        """Multiply the gates in and remove what is closed."""
        kept = {
            id(module): gate.keep.nonzero().flatten().tolist()
            for module, gate in owned(work.model, self.name, UnitGate)
        }
        model, family = work.model, work.context.family
        others = bake(model, Gate)
        delattr(model, MULTIPLIERS)
        for part in [*attentions(model, family), *feed_forwards(model, family)]:
            if id(part.output) in kept:
                part.keep(model, kept[id(part.output)])
        settle(model, family)
        for module, item in others:
            attach([module], item)
        parameters, size = content(model)
        log.info("%s: %d parameters are left, in %.2f MB", self.name, parameters, size / 1e6)
        return model

    def curves(self, work: Work) -> dict[str, float]:
        """The share that is expected to go, in the end the one that does."""
        gates = [gate for _, gate in owned(work.model, self.name, UnitGate)]
        kept = torch.cat([gate.keep for gate in gates])
        entries = torch.cat([gate.costs[:, 0] for gate in gates])
        decided = float((entries * ~kept).sum() / entries.sum())
        return {"sparsity": decided or self.expected(work.model).item()}

    def _parts(self, model: PreTrainedModel, family: Family) -> list[Slice]:
        return chosen([*attentions(model, family), *feed_forwards(model, family)], self.select)

    def _multipliers(self, model: PreTrainedModel) -> Multipliers:
        multipliers = model.get_submodule(MULTIPLIERS)
        assert isinstance(multipliers, Multipliers)
        return multipliers

    def _going(
        self,
        parts: Sequence[Slice],
        openness: Sequence[Tensor],
        costs: Sequence[Tensor],
        parameters: float,
        size: float,
    ) -> list[Unit]:
        """What is to go, the most closed first."""
        ranked: list[tuple[float, Unit]] = []
        for part, score, cost in zip(parts, openness, costs, strict=True):
            units = in_order([part], [score], [cost], "global", self.multiple if part.unit == "neuron" else 1)
            ranked += [(float(score[list(unit.members[0][1])].mean()), unit) for unit in units]
        units = [unit for _, unit in sorted(ranked, key=lambda item: item[0])]
        return units[: how_many(self.amount, units, float(torch.cat(list(costs))[:, 0].sum()), parameters, size)]

"""Group lasso (Yuan & Lin 2006) by proximal steps: whole rows or columns of a weight go to zero together.

After each step of the optimiser w_g ← w_g·(1 − ηλ√p_g / ‖w_g‖)₊ for each group g of p_g weights, η the learning rate:
the minimiser of ½‖w − v‖² + ηλ·Σ √p_g‖w_g‖ (Parikh & Boyd 2014, Proximal Algorithms, 6.5.4). With `strength=null` λ
is chosen as in `compress_exp.methods.prune.l1`, by the groups' root mean squares.
Cost: nothing but the step. The zeros are complete rows or columns; shapes stay (`prune/neurons` and `prune/heads`
remove them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from compress_exp.config import check_choice
from compress_exp.methods.base import Context
from compress_exp.methods.parametrized import Mask, owned
from compress_exp.methods.prune.l1 import Proximal, set_strength
from compress_exp.methods.prune.penalty import PenaltyPruning
from compress_exp.methods.select import Target, original
from compress_exp.models.families.base import output_axis

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def group_soft_threshold(
    weight: Tensor,  # (m, n)
    amount: float,
    axis: int,
) -> Tensor:  # (m, n)
    """w_g·(1 − amount·√p_g / ‖w_g‖)₊, each group all weights of one index of `axis`."""
    norms = weight.norm(dim=1 - axis, keepdim=True)
    size = weight.shape[1 - axis]
    return weight * (1 - amount * math.sqrt(size) / norms.clamp(min=1e-30)).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class GroupLassoPruning(PenaltyPruning):
    """Shrink whole rows or columns.

    Attributes:
        group: "row", all weights of one output, or "column", all of one input.
    """

    strength: float | None = None
    group: str = "row"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("group", self.group, ("row", "column"))
        check_choice("scope", self.scope, ("tensor", "global"))

    def prepare(self, model: PreTrainedModel, context: Context) -> PreTrainedModel:
        """Gate every selected weight, and choose λ."""
        model = super().prepare(model, context)
        set_strength(model, self, context)
        return model

    def gate(self, target: Target, index: int, context: Context) -> Mask:
        """All open."""
        return Proximal(target.weight)

    def axis(self, module: nn.Module) -> int:
        """The axis of the weight whose every index is a group."""
        return output_axis(module) if self.group == "row" else 1 - output_axis(module)

    def importance(self, module: nn.Module, gate: Mask) -> Tensor:
        """‖w_g‖ / √p_g."""
        weight, axis = original(module), self.axis(module)
        return weight.norm(dim=1 - axis) / math.sqrt(weight.shape[1 - axis])

    def reduced(self, module: nn.Module, kept: Tensor) -> Tensor:
        """Whether anything of each group is kept."""
        return kept.any(dim=1 - self.axis(module))

    def spread(self, module: nn.Module, kept: Tensor) -> Tensor:
        """Every weight of a group as the group."""
        return kept.unsqueeze(1 - self.axis(module)).expand_as(original(module))

    def after_step(self, model: PreTrainedModel, learning_rate: float) -> None:
        """The proximal step."""
        for module, gate in owned(model, self.name, Proximal):
            weight, strength = original(module), float(gate.strength)
            weight.copy_(group_soft_threshold(weight, learning_rate * strength, self.axis(module)))

"""Group lasso (Yuan & Lin 2006) by proximal steps: whole rows or columns of a weight go to zero together.

After each step of the optimiser w_g ← w_g·(1 − ηλ√p_g / ‖w_g‖)₊ for each group g of p_g weights, η the learning rate:
the minimiser of ½‖w − v‖² + ηλ·Σ √p_g‖w_g‖ (Parikh & Boyd 2014, Proximal Algorithms, 6.5.4). With `strength=null` λ
is chosen as in `compress_exp.methods.prune.l1`, by the groups' root mean squares. Defaults: that λ, rows, no trimming.
Cost: nothing but the step. The zeros are complete rows or columns; shapes stay (`prune/neurons` and `prune/heads`
remove them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from compress_exp.config.checks import check_choice
from compress_exp.layers.weights import original
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import Mask, owned
from compress_exp.methods.prune.common.penalty import PenaltyPruning
from compress_exp.methods.prune.common.ranking import ranked_groups
from compress_exp.methods.prune.l1 import Proximal, proximal
from compress_exp.methods.select import Target
from compress_exp.models.families.base import output_axis

if TYPE_CHECKING:
    pass


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

    origin: ClassVar[str] = "prune/group_lasso"

    strength: float | None = None
    group: str = "row"

    version: ClassVar[int] = 2
    moves_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("group", self.group, ("row", "column"))
        check_choice("scope", self.scope, ("tensor", "global"))

    def gate(self, target: Target, index: int, context: Context) -> Mask:
        """All open."""
        return proximal(self, target, context)

    def axis(self, module: nn.Module) -> int:
        """The axis of the weight whose every index is a group."""
        return output_axis(module) if self.group == "row" else 1 - output_axis(module)

    def importance(self, module: nn.Module, gate: Mask) -> Tensor:
        """‖w_g‖ / √p_g."""
        weight, axis = original(module), self.axis(module)
        return weight.norm(dim=1 - axis) / math.sqrt(weight.shape[1 - axis])

    def trimmed(
        self,
        holders: Sequence[tuple[nn.Module, Mask]],
        kept: Sequence[Tensor],  # bool, in each weight's shape: what the penalty left
        sparsity: float,
    ) -> list[Tensor]:  # bool, in each weight's shape
        """The groups of smallest root mean square whose weights add up to the sparsity go."""
        axes = [1 - self.axis(module) for module, _ in holders]
        counts = [mask.sum(axis) for mask, axis in zip(kept, axes, strict=True)]
        scores = [self.importance(module, gate) for module, gate in holders]
        groups = ranked_groups(scores, counts, [mask.numel() for mask in kept], sparsity, self.scope)
        return [group.unsqueeze(axis) & mask for group, axis, mask in zip(groups, axes, kept, strict=True)]

    def after_step(self, work: Work) -> None:
        """The proximal step."""
        for module, gate in owned(work.model, self.name, Proximal):
            weight, strength = original(module), float(gate.strength)
            weight.copy_(group_soft_threshold(weight, work.rate * strength, self.axis(module)))

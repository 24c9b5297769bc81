"""Head pruning (Michel et al. 2019, arXiv:1905.10650): whole attention heads go, the least important first.

I_h = E_x|∂L/∂ξ_h| at ξ = 1, where ξ_h multiplies head h's contribution; divided by the layer's ℓ2 norm, then compared
over all layers (self- and cross-attention alike), so that layers end with different numbers of heads. Every layer keeps
one. Deviation: ranked once, not again after every tenth of the heads. Defaults: 16 batches of 32 training rows.
Cost: one forward and backward pass over them; no speed-up of what attention does not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compress_exp.config.checks import check_choice
from compress_exp.layers.heads import attentions
from compress_exp.layers.slices import Slice
from compress_exp.methods.base import Facts
from compress_exp.methods.context import Context
from compress_exp.methods.prune.common.importance import gate_gradients, normalised
from compress_exp.methods.prune.common.removal import Removal
from compress_exp.methods.prune.common.units import SCOPES, Unit, check_removable, chosen, in_order
from compress_exp.models.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class HeadPruning(Removal):
    """Remove attention heads.

    Attributes:
        scope: "global" compares the heads of all layers, "layer" takes equally many from each.
    """

    origin: ClassVar[str] = "prune/heads"

    scope: str = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scope", self.scope, SCOPES)

    def most(self, facts: Facts) -> float | None:
        """All but one of every layer."""
        return None if facts.heads is None else 1 - 1 / max(facts.heads.values())

    def reach(self, model: PreTrainedModel, family: Family) -> None:
        """With all heads but the last of each layer."""
        check_removable(self.amount, chosen(attentions(model, family), self.select), 1, model)

    def kept(self, model: PreTrainedModel, context: Context) -> dict[str, list[int]]:
        """All but the heads of smallest I_h in the selected attention modules."""
        parts = chosen(attentions(model, context.family), self.select)
        units = head_units(model, parts, context, self.calibration, self.scope)
        return self.units_kept(model, context, parts, units)


def head_units(
    model: PreTrainedModel, parts: Sequence[Slice], context: Context, calibration: int, scope: str
) -> list[Unit]:
    """Heads in the order of their normalised importance."""
    return in_order(
        parts, normalised(gate_gradients(model, parts, context, calibration)), [part.costs() for part in parts], scope
    )

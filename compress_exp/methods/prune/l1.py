"""L1 regularisation by proximal steps: after each step of the optimiser w ← sign(w)·(|w| − ηλ)₊, η the learning rate.

The soft threshold is the minimiser of ½‖w − v‖² + ηλ‖w‖₁ (Parikh & Boyd 2014, Proximal Algorithms, 6.5.2). It makes
exact zeros, which a subgradient under Adam never does, and is decoupled from Adam's preconditioner as AdamW's decay is.
Cost: nothing but the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from compress_exp.methods.base import Context
from compress_exp.methods.parametrized import Mask, owned
from compress_exp.methods.prune.penalty import PenaltyPruning
from compress_exp.methods.select import Target, original

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def soft_threshold(weight: Tensor, amount: float) -> Tensor:
    """sign(w)·(|w| − amount)₊."""
    return weight.sign() * (weight.abs() - amount).clamp(min=0)


class Proximal(Mask):
    """A gate that keeps what the proximal step did not make zero, and what trimming left."""

    def kept(self, weight: Tensor) -> Tensor:
        """What is not zero."""
        return self.mask & (weight != 0)


@dataclass(frozen=True, kw_only=True)
class L1Pruning(PenaltyPruning):
    """Shrink every weight by ηλ a step."""

    strength: float = 1.0

    def gate(self, target: Target, index: int, context: Context) -> Mask:
        """All open."""
        return Proximal(target.weight)

    def importance(self, module: nn.Module, gate: Mask) -> Tensor:
        """|w|."""
        return original(module).abs()

    def after_step(self, model: PreTrainedModel, learning_rate: float) -> None:
        """The proximal step."""
        for module, _ in owned(model, self.name, Proximal):
            weight = original(module)
            weight.copy_(soft_threshold(weight, learning_rate * self.strength))

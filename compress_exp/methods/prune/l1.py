"""L1 regularisation by proximal steps: after each step of the optimiser w ← sign(w)·(|w| − ηλ)₊, η the learning rate.

The soft threshold is the minimiser of ½‖w − v‖² + ηλ‖w‖₁ (Parikh & Boyd 2014, Proximal Algorithms, 6.5.2). It makes
exact zeros, which a subgradient under Adam never does, and is decoupled from Adam's preconditioner as AdamW's decay is.
With `strength=null` each matrix has its own λ, the median of its |w| over the sum of all learning rates, with which
half of its weights would be zero at the end without a gradient; but at least 0.2, for Adam moves a weight by up to η in
each step, and less holds few weights at zero. Default: that λ, and no trimming.
Cost: nothing but the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from compress_exp.config.train import TrainConfig
from compress_exp.layers.weights import original
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import Mask, owned
from compress_exp.methods.prune.common.penalty import PenaltyPruning
from compress_exp.methods.rate import reach
from compress_exp.methods.select import Target

if TYPE_CHECKING:
    pass

LEAST = 0.2


def soft_threshold(weight: Tensor, amount: float) -> Tensor:
    """sign(w)·(|w| − amount)₊."""
    return weight.sign() * (weight.abs() - amount).clamp(min=0)


def choose_strength(
    sizes: Tensor,  # (n,) of weights or groups
    budget: TrainConfig,
    steps: int,
) -> float:
    """The λ whose steps sum to the median size of what is not zero, or the least that holds weights at zero."""
    rates = reach(steps, budget)
    left = sizes[sizes > 0]
    return max(LEAST, float(left.median()) / rates) if rates and len(left) else LEAST


class Proximal(Mask):
    """A gate that keeps what the proximal step did not make zero, and what trimming left.

    Attributes:
        strength: λ.
    """

    strength: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.register_buffer("strength", torch.tensor(0.0))

    def kept(self, weight: Tensor) -> Tensor:
        """What is not zero."""
        return self.mask & (weight != 0)


def proximal(method: PenaltyPruning, target: Target, context: Context) -> Proximal:
    """A gate with the method's λ, chosen by the sizes of the weights or groups where none is given."""
    module = target.modules[0]
    gate = Proximal(original(module))
    strength = method.strength
    if strength is None:
        sizes = method.importance(module, gate).detach().flatten()
        strength = choose_strength(sizes, method.train, context.steps)
    gate.strength.fill_(strength)
    return gate


@dataclass(frozen=True, kw_only=True)
class L1Pruning(PenaltyPruning):
    """Shrink every weight by ηλ a step."""

    origin: ClassVar[str] = "prune/l1"

    strength: float | None = None

    moves_weights: ClassVar[bool] = True

    def gate(self, target: Target, index: int, context: Context) -> Mask:
        """All open."""
        return proximal(self, target, context)

    def importance(self, module: nn.Module, gate: Mask) -> Tensor:
        """|w|."""
        return original(module).abs()

    def after_step(self, work: Work) -> None:
        """The proximal step."""
        for module, gate in owned(work.model, self.name, Proximal):
            weight = original(module)
            weight.copy_(soft_threshold(weight, work.rate * float(gate.strength)))

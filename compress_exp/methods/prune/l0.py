"""L0 regularisation with hard concrete gates (Louizos, Welling & Kingma 2018, arXiv:1712.01312).

Every weight is multiplied by z = clip(s·(ζ − γ) + γ, 0, 1), s = σ((log u − log(1 − u) + log α) / β), u uniform, with
β = 2/3, γ = −0.1, ζ = 1.1; the penalty is λ·Σ P(z ≠ 0) / n, P(z ≠ 0) = σ(log α − β·log(−γ/ζ)), with n the 85 million
weights of BERT-base's blocks, so that a strength presses on each weight alike whatever the model. Outside training, and
in what is exported, z = clip(σ(log α)·(ζ − γ) + γ, 0, 1). Defaults are those of Sanh et al. (2020, arXiv:2005.07683)
for BERT-base: log α = 2.197 at first, λ = 125, learning rate of log α 0.1. λ rises linearly from `start` to `end`.
Cost: a float32 log α with Adam's two moments for every weight, a random number for each in every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from compress_exp.config.checks import check_number
from compress_exp.layers.weights import original
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import Mask, owned
from compress_exp.methods.prune.common.penalty import BERT_BASE, PenaltyPruning
from compress_exp.methods.select import Target
from compress_exp.methods.window import Window
from compress_exp.parallel import seeds

if TYPE_CHECKING:
    pass

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
OPEN = 2.197


def stretched(
    share: Tensor,  # in (0, 1)
) -> Tensor:  # in [0, 1]
    """clip(s·(ζ − γ) + γ, 0, 1), which is exactly 0 or 1 with positive probability."""
    return (share * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def sampled(
    log_alpha: Tensor,
    uniform: Tensor,  # in (0, 1), same shape
) -> Tensor:  # in [0, 1]
    """The gate z of a draw."""
    return stretched(((uniform.log() - (-uniform).log1p() + log_alpha) / BETA).sigmoid())


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z ≠ 0)."""
    return (log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid()


class HardConcrete(Mask):
    """W ⊙ z.

    Args:
        weight: what it gates.
        seed: of the draws.

    Attributes:
        log_alpha: one per weight.
        draw: the number of the present draw, from which every evaluation within a step draws the same z.
    """

    draw: Tensor

    def __init__(self, weight: Tensor, seed: int) -> None:
        super().__init__(weight)
        self.log_alpha = nn.Parameter(torch.full_like(weight, OPEN))
        self.register_buffer("draw", torch.tensor(seed))

    def forward(self, weight: Tensor) -> Tensor:
        """Multiply by z, drawn while training, and by what trimming left."""
        return weight * (self.z() if self.training else self.fixed()) * self.factor

    def z(self) -> Tensor:
        """The gates of the present draw."""
        generator = torch.Generator(self.log_alpha.device).manual_seed(int(self.draw))
        uniform = torch.rand(self.log_alpha.shape, generator=generator, device=self.log_alpha.device)
        return sampled(self.log_alpha, uniform.clamp(1e-6, 1 - 1e-6))

    def fixed(self) -> Tensor:
        """The gates outside training."""
        return stretched(self.log_alpha.sigmoid())

    def kept(self, weight: Tensor) -> Tensor:
        """What is open outside training."""
        return self.mask & (self.fixed() > 0)


@dataclass(frozen=True, kw_only=True)
class L0Pruning(Window, PenaltyPruning):
    """Close gates by a penalty on how many are open.

    Attributes:
        score_learning_rate: of log α, which follows the same warm-up and decay as the weights.
    """

    origin: ClassVar[str] = "prune/l0"

    strength: float = 125.0
    score_learning_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("score_learning_rate", self.score_learning_rate, 0)

    def gate(self, target: Target, index: int, context: Context) -> Mask:
        """Gates that are open with a probability of 0.98."""
        return HardConcrete(original(target.modules[0]), seeds.derived(context.seed, index))

    def importance(self, module: nn.Module, gate: Mask) -> Tensor:
        """log α."""
        assert isinstance(gate, HardConcrete)
        return gate.log_alpha.detach()

    def parameter_groups(self, work: Work) -> list[dict[str, Any]]:
        """log α."""
        scores = [gate.log_alpha for _, gate in owned(work.model, self.name, HardConcrete)]
        return [{"params": scores, "lr": self.score_learning_rate, "weight_decay": 0.0}]

    def penalty(self, work: Work) -> Tensor:
        """λ·Σ P(z ≠ 0) / n."""
        chances = [open_probability(gate.log_alpha).sum() for _, gate in owned(work.model, self.name, HardConcrete)]
        return work.progress * self.strength * torch.stack(chances).sum() / BERT_BASE

    def after_step(self, work: Work) -> None:
        """The next draw."""
        for _, gate in owned(work.model, self.name, HardConcrete):
            gate.draw += 1

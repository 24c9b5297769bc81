"""SNIP (Lee, Ajanthan & Torr 2019, arXiv:1810.02340): connection sensitivity |g ⊙ w| / Σ|g ⊙ w| before training.

g ⊙ w is the derivative of the loss with respect to a factor c on each weight, at c = 1. The gradient is the mean over
all calibration batches, of which the paper takes one.
Defaults: 50 % of all weights, 4 batches of 32 rows.
Cost: one forward and backward pass over the calibration rows, two float32 for every selected weight while it lasts. At
high sparsity a global ranking can empty whole tensors, which is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from compress_exp.config.checks import check_number
from compress_exp.layers.weights import original
from compress_exp.methods.context import Context
from compress_exp.methods.prune.common.base import Pruning
from compress_exp.methods.prune.common.saliency import mean_over_batches
from compress_exp.methods.select import Target
from compress_exp.methods.window import Rounds

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class SnipPruning(Rounds, Pruning):
    """Rank by connection sensitivity before training.

    Attributes:
        calibration: batches of 32 training rows.
    """

    origin: ClassVar[str] = "prune/snip"

    calibration: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("calibration", self.calibration, 1)

    def fixed_scores(self, model: PreTrainedModel, chosen: Sequence[Target], context: Context) -> list[Tensor]:
        """|g ⊙ w|; all scores together sum to 1."""
        gradients = mean_over_batches(model, chosen, context, self.calibration, lambda gradient, weight: gradient)
        weights = [original(target.modules[0]).detach() for target in chosen]
        scores = [(gradient * weight).abs() for gradient, weight in zip(gradients, weights, strict=True)]
        total = sum(float(score.double().sum()) for score in scores)
        return [score / total for score in scores] if total else scores

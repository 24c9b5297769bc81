"""First-order Taylor pruning (Molchanov et al. 2019, arXiv:1906.10771): score E[(g·w)²].

g·w is, to first order, what the loss loses with a weight; it is squared in each calibration batch and averaged, so that
batches of opposite sign do not cancel.
Defaults: 50 % of every tensor, 16 batches of 32 training rows.
Cost: one forward and backward pass over the calibration rows, two float32 for every selected weight while it lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from compress_exp.config.checks import check_number
from compress_exp.methods.context import Context
from compress_exp.methods.prune.common.base import Pruning
from compress_exp.methods.prune.common.saliency import mean_over_batches
from compress_exp.methods.select import Target
from compress_exp.methods.window import Rounds

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class TaylorPruning(Rounds, Pruning):
    """Rank by the squared first-order change of the loss before training.

    Attributes:
        calibration: batches of 32 training rows.
    """

    origin: ClassVar[str] = "prune/taylor"

    calibration: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("calibration", self.calibration, 1)

    def fixed_scores(self, model: PreTrainedModel, chosen: Sequence[Target], context: Context) -> list[Tensor]:
        """E[(g·w)²]."""
        return mean_over_batches(
            model, chosen, context, self.calibration, lambda gradient, weight: (gradient * weight).square()
        )

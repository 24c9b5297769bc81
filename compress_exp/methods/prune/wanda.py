"""Wanda (Sun et al. 2023, arXiv:2306.11695): the weights of smallest |W_ij|·‖X_j‖₂ of each output become zero.

‖X_j‖₂ is the norm of input j over all tokens of the calibration rows, as the pruned blocks before it leave them. Scores
are compared within each output row, s·n of n inputs go, ties by index, and what is kept is not changed. Where s·n is no
whole number the authors take the lower one in every row; here the first rows lose one more, so that the matrix is
exact.
Defaults: 512 rows.
Cost: see `compress_exp.methods.prune.common.calibrated`; one number per input on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress_exp.methods.calibration import Statistic
from compress_exp.methods.prune.common.calibrated import CalibratedPruning
from compress_exp.methods.prune.common.ranking import ranked_masks
from compress_exp.methods.select import Target
from compress_exp.parallel.ranks import all_sum


class SquaredNorms:
    """Σ x_j² over tokens.

    Attributes:
        squares: float64 (inputs,).
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.squares = torch.zeros(width, dtype=torch.float64, device=device)

    def add(self, tokens: Tensor) -> None:
        """Take in (tokens, inputs)."""
        self.squares += tokens.float().square().sum(0)

    def norms(self) -> Tensor:  # float32 (inputs,)
        """‖X_j‖₂ over the rows of all ranks."""
        return all_sum(self.squares).sqrt().float()


def wanda_scores(
    weight: Tensor,  # (out, in)
    norms: Tensor,  # (in,)
) -> Tensor:  # (out, in)
    """|W_ij|·‖X_j‖₂."""
    return weight.abs() * norms


@dataclass(frozen=True, kw_only=True)
class WandaPruning(CalibratedPruning):
    """Rank each output's weights by their size times that of their input."""

    origin: ClassVar[str] = "prune/wanda"

    version: ClassVar[int] = 2

    def gather(self, target: Target, width: int, device: torch.device) -> SquaredNorms:
        """The norms of the inputs."""
        return SquaredNorms(width, device)

    def cut(self, weight: Tensor, kept: Tensor, statistic: Statistic | None, sparsity: float) -> tuple[Tensor, Tensor]:
        """The largest scores of each row; the weight is as it was."""
        assert isinstance(statistic, SquaredNorms)
        (mask,) = ranked_masks([wanda_scores(weight, statistic.norms())], [kept], sparsity, "row")
        return weight, mask

"""SparseGPT (Frantar & Alistarh 2023, arXiv:2301.00774): prune, and let the weights that stay make up for what goes.

With H = 2XᵀX/N + 0.01·mean(diag)·I over the N tokens of the calibration rows and U the upper Cholesky factor of H⁻¹,
columns are gone through in blocks of 128: the k smallest w²/U_jj² of a block's rows × 128 go, then column by column the
error e = (w − q)/U_jj is spread over the columns to the right, W_{:,j:} −= e·U_{j,j:}. The kept weights change. Inputs
that are always zero lose their weights. Deviations: k is exact where the authors' code prunes one more per block;
U comes from one Cholesky factorization of H instead of two and an inverse (float32).
Defaults: 512 rows. Cost: see `compress_exp.methods.prune.common.calibrated`; inputs² × 4 bytes for each matrix
of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compress_exp.methods.calibration import Statistic
from compress_exp.methods.hessian import BLOCK, Hessian, compensated, inverse_factor
from compress_exp.methods.prune.common.calibrated import CalibratedPruning
from compress_exp.methods.prune.common.ranking import check_scores, smallest
from compress_exp.methods.select import Target

Choice = Callable[[Tensor, Tensor, int], Tensor]


def sparsify(
    weight: Tensor,  # (out, in)
    kept: Tensor,  # bool (out, in): what may still be kept
    hessian: Tensor,  # (in, in), its dtype is that of the computation
    choose: Choice,
    group: int = BLOCK,
) -> tuple[Tensor, Tensor, Tensor]:  # (out, in), bool (out, in), ()
    """One matrix.

    Args:
        weight: as it was trained.
        kept: False stays zero.
        hessian: of its inputs, not yet damped.
        choose: scores (group, out) of columns, which of them may be kept, and the number of columns done after them ->
            which are kept. Scores are w²/U_jj², with the weights as they are when their group's turn comes.
        group: columns that are chosen at once; it divides 128.

    Returns:
        The new weight, its mask, and what it costs: Σ e², which is tr(ΔW·H·ΔWᵀ) with the damped H.
    """
    factor = inverse_factor(hessian)
    columns = (weight * kept).T.to(factor.dtype, copy=True, memory_format=torch.contiguous_format)
    kept = (kept & (hessian.diagonal() != 0)).T.contiguous()
    mask = torch.empty_like(kept)

    def decide(index: int) -> Tensor:
        if index % group == 0:
            here = slice(index, min(index + group, len(columns)))
            scores = (columns[here] / factor.diagonal()[here].unsqueeze(1)).square()
            mask[here] = choose(scores, kept[here], here.stop)
        return columns[index] * mask[index]

    cost = compensated(columns, factor, decide)
    return columns.T.to(weight.dtype), mask.T, cost


def smallest_share(sparsity: float) -> Choice:
    """The smallest scores of each block go, so many that k = round(s·n) of what is done are gone after every block."""
    gone = 0

    def choose(scores: Tensor, kept: Tensor, done: int) -> Tensor:
        nonlocal gone
        check_scores([scores])
        count = round(sparsity * done * scores.shape[1]) - gone
        count = max(count, kept.numel() - int(kept.sum()))
        gone += count
        return ~smallest(torch.where(kept, scores, -torch.inf), count)

    return choose


@dataclass(frozen=True, kw_only=True)
class SparseGPTPruning(CalibratedPruning):
    """Rank by what each weight costs once the others have made up for it, and let them."""

    origin: ClassVar[str] = "prune/sparsegpt"

    def gather(self, target: Target, width: int, device: torch.device) -> Hessian:
        """The second moments of the inputs."""
        return Hessian(width, device)

    def cut(self, weight: Tensor, kept: Tensor, statistic: Statistic | None, sparsity: float) -> tuple[Tensor, Tensor]:
        """The mask and the weights that make up for it."""
        assert isinstance(statistic, Hessian)
        new, mask, _ = sparsify(weight, kept, statistic.matrix(), smallest_share(sparsity))
        return new, mask

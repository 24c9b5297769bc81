"""N:M pruning (Mishra et al. 2021, arXiv:2104.08378): of every M consecutive inputs of an output, N weights are kept.

Which ones: the largest |w|, the largest |W_ij|·‖X_j‖₂ (Wanda), or those that SparseGPT chooses, and changes.
Defaults: 2:4 by magnitude; 512 calibration rows for the other two. Stored as patterns (`formats/codecs/n_m.py`) where
that is smaller than a bitmask. It is faster on GPUs with sparse tensor cores only, never on a CPU.
Cost: none over data by magnitude; otherwise that of the criterion (`wanda`, `sparsegpt`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from compress_exp.config.checks import FieldError, check_choice, check_number
from compress_exp.layers.weights import original
from compress_exp.methods.base import Facts
from compress_exp.methods.calibration import Statistic
from compress_exp.methods.context import Context
from compress_exp.methods.hessian import Hessian
from compress_exp.methods.prune.common.amount import Amount
from compress_exp.methods.prune.common.calibrated import CalibratedPruning, rows
from compress_exp.methods.prune.common.ranking import check_scores, smallest_of_rows
from compress_exp.methods.prune.sparsegpt import Choice, sparsify
from compress_exp.methods.prune.wanda import SquaredNorms, wanda_scores
from compress_exp.methods.select import Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CRITERIA = ("magnitude", "wanda", "sparsegpt")
GROUPS = (2, 4, 8, 16, 32, 64)


def n_m_mask(
    scores: Tensor,  # (out, in)
    kept: Tensor,  # bool (out, in): what may still be kept
    n: int,
    m: int,
) -> Tensor:  # bool (out, in)
    """Keep the n largest of every m consecutive scores of a row, ties by index, and nothing that was gone before.

    Raises:
        NoOrder: a score is not finite.
    """
    check_scores([scores])
    groups = torch.where(kept, scores, -torch.inf).reshape(-1, m)
    zeros = (m - kept.reshape(-1, m).sum(1)).clamp(min=m - n)
    return ~smallest_of_rows(groups, zeros).view_as(kept)


def n_of_columns(n: int) -> Choice:
    """The same for SparseGPT, which hands over m columns at a time."""
    return lambda scores, kept, done: n_m_mask(scores.T, kept.T, n, len(scores)).T


@dataclass(frozen=True, kw_only=True)
class NMPruning(CalibratedPruning):
    """Keep n of every m.

    Attributes:
        n: weights kept of each group; n = m keeps everything.
        m: width of a group, a power of two from 2 to 64; it divides the inputs of every selected weight.
        criterion: "magnitude", "wanda" or "sparsegpt".
        calibration: batches of 32 training rows; unused by magnitude.
    """

    origin: ClassVar[str] = "prune/n_m"

    n: int = 2
    m: int = 4
    criterion: str = "magnitude"

    def __post_init__(self) -> None:
        if self.m not in GROUPS:
            raise FieldError("m", f"{self.m!r} is not allowed, one of {', '.join(map(str, GROUPS))} is")
        check_number("n", self.n, 1, self.m)
        check_choice("criterion", self.criterion, CRITERIA)
        if (self.sparsity, self.parameters, self.megabytes) != (None, None, None):
            raise FieldError("sparsity", f"n={self.n} and m={self.m} decide it; leave out sparsity and its like")
        super().__post_init__()

    @property
    def amount(self) -> Amount:
        """The sparsity 1 − n/m."""
        return Amount(sparsity=1 - self.n / self.m, parameters=None, megabytes=None)

    def check(self, facts: Facts) -> Facts:
        """Refuse, as far as the configuration tells, widths that the groups do not divide."""
        by_name = self.select.include != ("*",) or self.select.exclude  # then only `prepare` knows what is taken
        for role, widths in ({} if by_name else facts.widths).items():
            for width in widths:
                if width % self.m and self.select.takes("", role):
                    raise FieldError("m", _indivisible(self.m, width, role))
        return super().check(facts)

    def prune(self, model: PreTrainedModel, context: Context, chosen: Sequence[Target], sparsity: float) -> None:
        """Decide the masks: by magnitude at once, otherwise in the order of the blocks.

        Raises:
            FieldError: a weight's inputs cannot be cut into groups of m.
        """
        for target in chosen:
            width = rows(target.modules[0], original(target.modules[0])).shape[1]
            if width % self.m:
                raise FieldError("m", _indivisible(self.m, width, target.names[0]))
        if self.criterion != "magnitude":
            super().prune(model, context, chosen, sparsity)
            return
        for target in chosen:
            self.set(target, None, sparsity)

    def gather(self, target: Target, width: int, device: torch.device) -> SquaredNorms | Hessian:
        """What the criterion needs."""
        return SquaredNorms(width, device) if self.criterion == "wanda" else Hessian(width, device)

    def cut(self, weight: Tensor, kept: Tensor, statistic: Statistic | None, sparsity: float) -> tuple[Tensor, Tensor]:
        """The best n of each group."""
        if isinstance(statistic, Hessian):
            new, mask, _ = sparsify(weight, kept, statistic.matrix(), n_of_columns(self.n), self.m)
            return new, mask
        norms = statistic.norms() if isinstance(statistic, SquaredNorms) else torch.ones_like(weight[0])
        return weight, n_m_mask(wanda_scores(weight, norms), kept, self.n, self.m)


def _indivisible(m: int, width: int, where: str) -> str:
    return (
        f"the {width} inputs of {where} are no multiple of {m}; take an m that divides them, or leave {where} out "
        "by method.prune.select"
    )

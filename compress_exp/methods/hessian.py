"""What makes up for a change of some weights of a layer: the others, as the second moments of its inputs say.

Optimal Brain Surgeon (Hassibi & Stork 1992), one column after the other in a fixed order (Frantar et al. 2022,
arXiv:2210.17323). H = 2XᵀX/N + d·mean(diag)·I is the Hessian of a layer's squared output error over N tokens, U the
upper Cholesky factor of H⁻¹. A column that becomes q leaves the error e = (w − q)/U_jj, and the columns to come take
W_{:,j:} −= e·U_{j,j:}: within blocks of 128 columns at once, beyond a block at its end. Deviation: U comes
from one Cholesky factorization of H instead of two and an inverse (float32).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compress_exp.parallel.ranks import all_sum

BLOCK = 128
DAMPING = 0.01


class Hessian:
    """2·XᵀX/N over tokens.

    Attributes:
        products: Σ x xᵀ, float32 (inputs, inputs).
        tokens: N.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.products = torch.zeros(width, width, device=device)
        self.tokens = torch.zeros((), device=device)

    def add(self, tokens: Tensor) -> None:
        """Take in (tokens, inputs)."""
        values = tokens.float()
        self.products.addmm_(values.T, values)
        self.tokens += len(values)

    def matrix(self) -> Tensor:  # float32 (inputs, inputs)
        """The Hessian over the rows of all ranks."""
        return all_sum(self.products).mul(2 / all_sum(self.tokens).clamp(min=1))


def damped(
    hessian: Tensor,  # (n, n)
    damping: float = DAMPING,
) -> Tensor:  # (n, n)
    """H + d·mean(diag H)·I, and 1 more on the diagonal of inputs that are always zero."""
    matrix = hessian.clone()
    diagonal = hessian.diagonal()
    matrix.diagonal().add_(damping * diagonal.mean() + (diagonal == 0))
    return matrix


def inverse_factor(
    hessian: Tensor,  # (n, n), positive semidefinite
    damping: float = DAMPING,
) -> Tensor:  # (n, n) upper triangular
    """U with UᵀU = (H + d·mean(diag H)·I)⁻¹, with ten times d, and again, where that is not enough.

    Raises:
        ValueError: it holds numbers that are not finite.
    """
    for times in (1, 10, 100):
        # H = R·Rᵀ with R upper is the Cholesky factorization of H read backwards, and U = R⁻¹.
        lower, failed = torch.linalg.cholesky_ex(damped(hessian, times * damping).flip(0, 1))
        if not bool(failed):
            identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
            return torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
    raise ValueError("its inputs hold numbers that are not finite; lower train.learning_rate of what came before")


def compensated(
    columns: Tensor,  # (in, out), columns of W as rows, so that they lie together in memory
    factor: Tensor,  # (in, in) upper triangular, of the same type
    decide: Callable[[int], Tensor],
) -> Tensor:  # ()
    """Decide one column after the other, and let those to come make up for what was changed.

    Args:
        columns: become what is decided.
        factor: U.
        decide: the number of a column -> what it becomes, (out,). When it is asked, the columns up to the end of the
            block hold what those before have left.

    Returns:
        What it costs: Σ e², which is tr(ΔW·H·ΔWᵀ) with the damped H.
    """
    cost = torch.zeros((), dtype=factor.dtype, device=factor.device)
    for start in range(0, len(columns), BLOCK):
        end = min(start + BLOCK, len(columns))
        block, inner = columns[start:end], factor[start:end, start:end]
        errors = torch.empty_like(block)
        for index in range(end - start):
            new = decide(start + index)
            errors[index] = (block[index] - new) / inner[index, index]
            block[index:].addr_(inner[index, index:], errors[index], alpha=-1)
            block[index] = new
        columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
        cost += errors.square().sum()
    return cost

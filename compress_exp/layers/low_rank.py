"""A linear layer as two, one after the other: W ≈ second · first, with r·(in + out) weights instead of in·out."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from compress_exp.layers.slices import inputs_of, outputs_of
from compress_exp.layers.stored import Stored
from compress_exp.layers.weights import original, weight_of
from compress_exp.models.families.base import is_linear


class LowRank(Stored):
    """y = second(first(x)); the bias is the second's.

    Args:
        first: (rank, in), without a bias; an `Int8Linear` once it is quantized.
        second: (out, rank).
    """

    kind: ClassVar[str] = "low_rank"
    parts: ClassVar[tuple[str, ...]] = ("first", "second")

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        self.first: nn.Module = first
        self.second: nn.Module = second

    @classmethod
    def build(cls, plain: nn.Module, spec: dict[str, Any]) -> Self:
        """Empty factors with the widths, the type and the bias of a Linear or Conv1D."""
        if not is_linear(plain):
            raise ValueError(f"is {type(plain).__name__} and no Linear")
        weight, rank = original(plain), spec.get("rank")
        # It may be larger than a side that lost heads or neurons.
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"has no factors of rank {rank!r}")
        like: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        first = skip_init(nn.Linear, inputs_of(plain), rank, bias=False, **like)
        second = skip_init(nn.Linear, rank, outputs_of(plain), bias=False, **like)
        second.bias = plain.bias  # the same parameter, so that what shares it still does
        return cls(first, second)

    def spec(self) -> dict[str, Any]:
        """The rank."""
        return {"rank": outputs_of(self.first)}

    def dense(self) -> Tensor:  # (out, in)
        """The product of the factors."""
        first, second = (
            part.dense() if isinstance(part, Stored) else weight_of(part).detach().float()
            for part in (self.first, self.second)
        )
        return second @ first

    @property
    def weight(self) -> Tensor:
        """Empty, of the type that is computed in: T5 casts what it hands to a layer to the type of its weight."""
        return original(self.first).new_empty(0)

    @property
    def bias(self) -> Any:
        """The second factor's."""
        return self.second.bias

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return inputs_of(self.first)

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return outputs_of(self.second)

    def forward(self, inputs: Tensor) -> Tensor:  # (..., in) -> (..., out)
        """Apply both."""
        output: Tensor = self.second(self.first(inputs))
        return output


def factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:  # (out, in) -> (rank, in), (out, rank)
    """The two factors of the product of a rank that is nearest to a matrix (Eckart & Young 1936), balanced.

    With W = U Σ Vᵀ they are Σ_r^½ V_rᵀ and U_r Σ_r^½: the error ‖W − second · first‖ is √(Σ_{i>r} σ_i²) in the
    Frobenius norm and σ_{r+1} in the spectral norm, and both factors have the same singular values √σ.
    """
    left, values, right = torch.linalg.svd(weight.detach().cpu().double(), full_matrices=False)
    root = values[:rank].sqrt()
    return root.unsqueeze(1) * right[:rank], left[:, :rank] * root

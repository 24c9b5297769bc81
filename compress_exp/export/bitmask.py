"""Sparse tensors as a bitmask and the values under it.

n weights of b bits at sparsity s take (1 − s)·b + 1 bits each, so the format wins for s > 1/b.
"""

from __future__ import annotations

import torch
from torch import Tensor


def encode(
    weight: Tensor,  # any shape
) -> tuple[Tensor, Tensor]:  # uint8 (ceil(n / 8),), values (nonzeros,)
    """Pack which entries are not zero, eight to a byte (lowest bit first), and keep those entries."""
    kept = (weight != 0).flatten()
    padded = torch.zeros(-(-kept.numel() // 8) * 8, dtype=torch.uint8)
    padded[: kept.numel()] = kept.to(torch.uint8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    bits = (padded.view(-1, 8) * powers).sum(1, dtype=torch.uint8)
    return bits, weight.flatten()[kept].clone()


def decode(
    bits: Tensor,  # uint8 (ceil(n / 8),)
    values: Tensor,  # (nonzeros,)
    shape: torch.Size,
) -> Tensor:
    """Undo `encode`."""
    count = shape.numel()
    kept = ((bits.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten()[:count].bool()
    weight = torch.zeros(count, dtype=values.dtype)
    weight[kept] = values
    return weight.view(shape)


def worthwhile(weight: Tensor) -> bool:
    """Whether the encoded form takes fewer bytes than the dense one."""
    bits, nonzeros = -(-weight.numel() // 8), int(torch.count_nonzero(weight))
    return bits + nonzeros * weight.element_size() < weight.numel() * weight.element_size()

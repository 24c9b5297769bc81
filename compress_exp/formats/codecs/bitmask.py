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
    return pack(kept), weight.flatten()[kept].clone()


def decode(
    bits: Tensor,  # uint8 (ceil(n / 8),)
    values: Tensor,  # (nonzeros,)
    shape: torch.Size,
) -> Tensor:
    """Undo `encode`.

    Raises:
        ValueError: there are not as many values as entries under the mask.
    """
    count = shape.numel()
    kept = unpack(bits, count)
    if int(kept.sum()) != len(values):
        raise ValueError(f"has {len(values)} values under a bitmask of {int(kept.sum())}")
    weight = torch.zeros(count, dtype=values.dtype)
    weight[kept] = values
    return weight.view(shape)


def bytes_of(weight: Tensor) -> int:
    """The bytes of the encoded form."""
    return -(-weight.numel() // 8) + int(torch.count_nonzero(weight)) * weight.element_size()


def worthwhile(weight: Tensor) -> bool:
    """Whether the encoded form takes fewer bytes than the dense one."""
    return bytes_of(weight) < weight.numel() * weight.element_size()


def pack(
    bits: Tensor,  # 0 or 1 (n,)
) -> Tensor:  # uint8 (ceil(n / 8),)
    """Eight bits to a byte, lowest first."""
    padded = torch.zeros(-(-bits.numel() // 8) * 8, dtype=torch.uint8)
    padded[: bits.numel()] = bits.to(torch.uint8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    return (padded.view(-1, 8) * powers).sum(1, dtype=torch.uint8)


def unpack(
    packed: Tensor,  # uint8 (ceil(n / 8),)
    count: int,
) -> Tensor:  # bool (n,)
    """Undo `pack`."""
    return ((packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten()[:count].bool()

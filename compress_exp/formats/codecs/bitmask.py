"""Sparse tensors as a bitmask and the values under it.

n weights of b bits at sparsity s take (1 − s)·b + 1 bits each, so the format wins for s > 1/b.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compress_exp.formats.codecs import Kind

PIECES = ("bitmask", "values")


def size(
    tensor: Tensor,  # any shape
    inputs: int,
) -> int:
    """The bytes of the encoded form."""
    return -(-tensor.numel() // 8) + int(torch.count_nonzero(tensor)) * tensor.element_size()


def encode(
    tensor: Tensor,  # any shape
    inputs: int,
) -> dict[str, Tensor]:  # "bitmask": uint8 (ceil(n / 8),), "values": (nonzeros,)
    """Pack which entries are not zero, eight to a byte (lowest bit first), and keep those entries."""
    kept = (tensor != 0).flatten()
    return {"bitmask": pack(kept), "values": tensor.flatten()[kept].clone()}


def decode(pieces: Mapping[str, Tensor], shape: torch.Size, inputs: int) -> Tensor:
    """Undo `encode`.

    Raises:
        ValueError: there are not as many values as entries under the mask.
    """
    values = pieces["values"]
    kept = unpack(pieces["bitmask"], shape.numel())
    if int(kept.sum()) != len(values):
        raise ValueError(f"has {len(values)} values under a bitmask of {int(kept.sum())}")
    tensor = torch.zeros(shape.numel(), dtype=values.dtype)
    tensor[kept] = values
    return tensor.view(shape)


def expected(kinds: Mapping[str, Kind], kind: Kind, inputs: int) -> dict[str, Kind]:
    """A bit for every entry, and no more values than entries."""
    dtype, shape = kind
    values, count = kinds["values"][1], torch.Size(shape).numel()
    if len(values) != 1 or values[0] > count:
        raise ValueError(f"of {list(values)} does not fit under a bitmask of {list(shape)}")
    return {"bitmask": ("U8", (-(-count // 8),)), "values": (dtype, values)}


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

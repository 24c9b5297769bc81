"""Weights with at most n of every m inputs kept, as the number of each group's pattern and n values.

A group has C(m, n) patterns, so its number takes ceil(log2 C(m, n)) bits: 3 bits for 2:4 (0.75 a weight; two 2-bit
indices would take 1, as a bitmask does), 7 for 4:8 (0.875). Beside a bitmask and its values that saves 1.5 % of 2:4 and
0.7 % of 4:8 in float32, 5 % and 2.5 % in int8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from compress_exp.formats.codecs import Kind
from compress_exp.formats.codecs.bitmask import pack, unpack

PIECES = ("patterns", "values")
GROUPS = (4, 8)


def size(
    tensor: Tensor,  # a matrix, or anything else, which has no such form
    inputs: int,
) -> int | None:
    """The bytes of the encoded form; None where inputs do not fall into groups of which something is gone."""
    if tensor.dim() != 2:
        return None
    m, least = smallest_group(_rows(tensor, inputs))
    return least if m else None


def encode(tensor: Tensor, inputs: int) -> dict[str, Tensor]:
    """In groups of the m that takes the fewest bytes."""
    rows = _rows(tensor, inputs)
    patterns, values = encode_groups(rows, smallest_group(rows)[0])
    return {"patterns": patterns, "values": values}


def decode(pieces: Mapping[str, Tensor], shape: torch.Size, inputs: int) -> Tensor:
    """Undo `encode`.

    Raises:
        ValueError: a group has a pattern that does not exist.
    """
    rows = torch.Size(reversed(shape)) if inputs == 0 else shape
    return _rows(decode_groups(pieces["patterns"], pieces["values"], rows), inputs).contiguous()


def expected(kinds: Mapping[str, Kind], kind: Kind, inputs: int) -> dict[str, Kind]:
    """The patterns that groups of so many values have."""
    dtype, shape = kind
    values = kinds["values"][1]
    count = bytes_of_patterns(torch.Size(values), torch.Size(reversed(shape)) if inputs == 0 else torch.Size(shape))
    if count is None:
        raise ValueError(f"of {list(values)} does not fit into groups of {list(shape)}")
    return {"patterns": ("U8", (count,)), "values": (dtype, values)}


def _rows(tensor: Tensor, inputs: int) -> Tensor:
    """As output × input, and back."""
    return tensor.T if inputs == 0 else tensor


def encode_groups(
    weight: Tensor,  # (out, in), in a multiple of m
    m: int,
) -> tuple[Tensor, Tensor]:  # uint8 (ceil(groups · bits / 8),), values (groups, n)
    """The pattern of every group of m inputs, lowest bit first, and the n values under it; n is the fullest group's.

    A group with fewer nonzero weights gets zeros among its values.
    """
    groups = weight.reshape(-1, m)
    n = _fullest(groups)
    positions = (groups == 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :n].sort(dim=1).values
    number = torch.zeros(2**m, dtype=torch.int64)
    patterns = _patterns(n, m)
    number[(1 << patterns).sum(1)] = torch.arange(len(patterns))
    codes = number[(1 << positions).sum(1)].unsqueeze(1)
    bits = (codes >> torch.arange(_width(n, m))) & 1
    return pack(bits.flatten()), groups.gather(1, positions)


def decode_groups(
    codes: Tensor,  # uint8 (ceil(groups · bits / 8),)
    values: Tensor,  # (groups, n)
    shape: torch.Size,  # (out, in)
) -> Tensor:
    """Undo `encode_groups`.

    Raises:
        ValueError: a group has a pattern that does not exist.
    """
    groups, n = values.shape
    m = shape.numel() // groups
    width = _width(n, m)
    bits = unpack(codes, groups * width).view(groups, width).to(torch.int64)
    number, patterns = (bits << torch.arange(width)).sum(1), _patterns(n, m)
    if len(number) and int(number.max()) >= len(patterns):
        raise ValueError(f"has pattern {int(number.max())} of {len(patterns)}")
    positions = patterns[number]
    return torch.zeros(groups, m, dtype=values.dtype).scatter(1, positions, values).view(shape)


def bytes_of_patterns(
    values: torch.Size,  # (groups, n)
    shape: torch.Size,  # (out, in)
) -> int | None:
    """The bytes of the patterns beside values of one shape for a weight of another; None where they do not fit."""
    if len(values) != 2 or len(shape) != 2 or not values.numel():
        return None
    groups, n = values
    m = shape.numel() // groups
    if m not in GROUPS or shape[1] % m or groups * m != shape.numel() or n > m:
        return None
    return -(-groups * _width(n, m) // 8)


def smallest_group(weight: Tensor) -> tuple[int, int]:
    """The m of the smallest such form and its bytes; 0 and the bytes of the dense form where none is smaller."""
    best = (0, weight.numel() * weight.element_size())
    for m in GROUPS:
        if weight.dim() != 2 or weight.shape[1] % m:
            continue
        groups = weight.reshape(-1, m)
        n = _fullest(groups)
        size = len(groups) * n * weight.element_size() + -(-len(groups) * _width(n, m) // 8)
        best = min(best, (m, size), key=lambda item: item[1])
    return best


def _fullest(groups: Tensor) -> int:
    return max(1, int((groups != 0).sum(1).max()))


def _width(n: int, m: int) -> int:
    return math.ceil(math.log2(math.comb(m, n)))


def _patterns(n: int, m: int) -> Tensor:  # int64 (C(m, n), n)
    return torch.tensor(list(combinations(range(m), n)))

from __future__ import annotations

import pytest
import torch

from compress_exp.formats.codecs import bitmask, smallest


@pytest.mark.parametrize("shape", [(3, 5), (8, 8), (1, 1), (7, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_bitmasks_come_back_to_the_last_bit(shape, dtype):
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    weight[torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6] = 0
    pieces = bitmask.encode(weight, 1)
    assert pieces["bitmask"].numel() == -(-weight.numel() // 8)
    assert pieces["values"].numel() == int((weight != 0).sum())
    assert bitmask.size(weight, 1) == sum(piece.numel() * piece.element_size() for piece in pieces.values())
    assert torch.equal(bitmask.decode(pieces, weight.shape, 1), weight)


def test_the_bitmask_wins_above_one_over_the_bits():
    weight = torch.ones(31, 33)  # no groups of 4 or 8
    weight.view(-1)[: 31 * 33 // 32] = 0
    assert smallest(weight, 1) is None
    weight.view(-1)[: 31 * 33 // 32 + 2] = 0
    assert smallest(weight, 1) == "bitmask"

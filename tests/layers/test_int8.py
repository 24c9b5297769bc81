import copy
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from compress_exp.layers import int8
from compress_exp.layers.int8 import (
    LIMIT,
    OVERFLOW_SAFE_LIMIT,
    Int8Embedding,
    Int8Linear,
    kernels_exact,
    largest_code,
    quantize_rows,
)


def make(
    out: int = 48, width: int = 64, bias: bool = True, seed: int = 0, limit: int = LIMIT
) -> tuple[Int8Linear, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, width, generator=generator)
    offset = torch.randn(out, generator=generator) if bias else None
    scale = weight.abs().amax(1) / limit
    return Int8Linear.from_float(weight, offset, scale, torch.tensor(0.03), torch.tensor(100)), weight


def by_hand(layer: Int8Linear, codes: torch.Tensor) -> torch.Tensor:
    """The integer product in int64 and its scaling in float64."""
    centred = codes.long() - int(layer.input_zero_point)
    product = (centred.unsqueeze(-2) * layer.weight.long()).sum(-1)
    result = product.double() * layer.weight_scale.double() * float(layer.input_scale)
    return result if layer.bias is None else result + layer.bias.detach().double()


@pytest.mark.parametrize("limit", [LIMIT, OVERFLOW_SAFE_LIMIT])
@pytest.mark.parametrize("bias", [True, False])
def test_both_paths_agree_with_integer_arithmetic(bias: bool, limit: int) -> None:
    layer, _ = make(bias=bias, limit=limit)
    assert largest_code(layer.weight) == limit
    codes = torch.randint(0, 256, (3, 7, 64), generator=torch.Generator().manual_seed(1))
    inputs = (codes - 100) * layer.input_scale
    expected = by_hand(layer, codes)
    assert torch.allclose(layer.reference(inputs).double(), expected, rtol=0, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(layer(inputs).double(), expected, rtol=0, atol=1e-4)


def test_bit_exact_where_floats_hold_every_integer() -> None:
    layer = Int8Linear(8, 5, bias=True)
    generator = torch.Generator().manual_seed(2)
    layer.weight = torch.randint(-127, 128, (5, 8), generator=generator, dtype=torch.int8)
    layer.weight_scale = 2.0 ** torch.arange(-2, 3).float()
    layer.input_scale, layer.input_zero_point = torch.tensor(0.5), torch.tensor(7, dtype=torch.int32)
    layer.bias = nn.Parameter(torch.arange(5).float())
    codes = torch.randint(0, 256, (4, 8), generator=generator)
    inputs = (codes - 7) * 0.5
    expected = by_hand(layer, codes).float()
    assert torch.equal(layer.reference(inputs), expected)
    with torch.no_grad():
        assert torch.equal(layer(inputs), expected)


def test_both_paths_agree_off_the_grid_and_beyond_its_range() -> None:
    layer, _ = make(384, 384, limit=OVERFLOW_SAFE_LIMIT)
    inputs = torch.randn(2, 33, 384, generator=torch.Generator().manual_seed(3)) * 4
    codes = ((inputs * (1 / layer.input_scale)).round() + 100).clamp(0, 255)
    assert codes.min() == 0 and codes.max() == 255
    expected = by_hand(layer, codes)
    with torch.no_grad():
        # float32: the reference sums 384 products of up to 200, a kernel rounds once
        assert torch.allclose(layer.reference(inputs).double(), expected, rtol=0, atol=1e-3)
        assert torch.allclose(layer(inputs).double(), expected, rtol=0, atol=1e-4 if layer.in_integers else 1e-3)
    assert layer.in_integers == kernels_exact(OVERFLOW_SAFE_LIMIT)


def test_codes_that_overflow_on_this_cpu_take_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "kernels_exact", lambda largest: largest <= OVERFLOW_SAFE_LIMIT)
    full, safe = make(limit=LIMIT)[0], make(limit=OVERFLOW_SAFE_LIMIT)[0]
    assert not full.in_integers and safe.in_integers == (platform.machine() in ("x86_64", "AMD64"))
    inputs = torch.randn(4, 64, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        assert torch.equal(full(inputs), full.reference(inputs))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="this CPU is not x86")
def test_a_cpu_without_vnni_is_found_out_and_the_safe_range_is_not() -> None:
    code = (
        "import torch; from compress_exp.layers.int8 import kernels_exact;"
        "print(kernels_exact(63), kernels_exact(127), torch.backends.cpu.get_cpu_capability())"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True False") or done.stdout.strip() == "False False DEFAULT"


def test_weights_round_like_fake_quantize() -> None:
    layer, weight = make()
    expected = torch.fake_quantize_per_channel_affine(
        weight, layer.weight_scale, torch.zeros(48, dtype=torch.int32), 0, -127, 127
    )
    assert torch.equal(layer.weight.float() * layer.weight_scale.unsqueeze(1), expected)
    assert quantize_rows(torch.tensor([[1e9, -1e9]]), torch.tensor([1.0])).tolist() == [[127, -127]]
    assert quantize_rows(torch.zeros(1, 2), torch.zeros(1)).tolist() == [[0, 0]]


def test_gradients_take_the_reference_path() -> None:
    layer, _ = make()
    inputs = torch.randn(4, 64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    layer(inputs).sum().backward()
    assert inputs.grad is not None and torch.isfinite(inputs.grad).all() and inputs.grad.abs().sum() > 0


def test_meta_build_assign_deepcopy_and_later_changes() -> None:
    layer, _ = make()
    inputs = torch.randn(4, 64, generator=torch.Generator().manual_seed(5))
    with torch.device("meta"):
        twin = Int8Linear(64, 48, bias=True)
    twin.load_state_dict(layer.state_dict(), assign=True)
    with torch.no_grad():
        expected = layer(inputs)
        assert torch.equal(twin(inputs), expected)
        assert torch.equal(copy.deepcopy(layer)(inputs), expected)
        other, _ = make(seed=9)
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(inputs), other(inputs))
        layer.weight = twin.weight
        layer.input_scale.mul_(2)
        fresh = Int8Linear(64, 48)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(layer(inputs), fresh(inputs))
    assert set(layer.state_dict()) == {"weight", "weight_scale", "input_scale", "input_zero_point", "bias"}


def test_bfloat16_input_gives_bfloat16() -> None:
    layer, _ = make()
    with torch.no_grad():
        assert layer(torch.randn(2, 64).bfloat16()).dtype == torch.bfloat16


def test_embedding_rows_and_tied_head() -> None:
    weight = torch.randn(20, 16, generator=torch.Generator().manual_seed(6))
    scale = weight.abs().amax(1) / 127
    embedding = Int8Embedding.from_float(weight, scale, padding_idx=0, embed_scale=4.0)
    ids = torch.tensor([[1, 0], [19, 7]])
    grid = torch.fake_quantize_per_channel_affine(weight, scale, torch.zeros(20, dtype=torch.int32), 0, -127, 127)
    assert torch.equal(embedding(ids), grid[ids] * 4)
    head = Int8Linear(16, 20, bias=False)
    head.weight, head.weight_scale = embedding.weight, embedding.weight_scale
    pair = nn.ModuleList([embedding, head])
    twin = copy.deepcopy(pair)
    assert twin[0].weight is twin[1].weight and twin[0].weight is not embedding.weight
    with torch.device("meta"):
        empty = Int8Embedding(20, 16, 0, 4.0)
    empty.load_state_dict(embedding.state_dict(), assign=True)
    assert torch.equal(empty(ids), embedding(ids))

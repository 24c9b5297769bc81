"""Packed weights against what the equation gives by hand, and what of them comes back from a file."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from compress_exp.config.checks import UserError
from compress_exp.formats.artifact import check, load, save
from compress_exp.layers.stored import Stored
from compress_exp.layers.surgery import replace_module
from compress_exp.layers.weight_only import (
    Grouped,
    WeightOnlyEmbedding,
    WeightOnlyLinear,
    group_of,
    pack,
    unpack,
)

DENSE = "bert.encoder.layer.1.intermediate.dense"
SHAPES = [(3, 32, 16), (5, 33, 16), (1, 7, 128), (4, 48, 32), (2, 80, -1), (3, 129, 64)]


def drawn(
    rows: int, width: int, group_size: int, bits: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes over the whole range, scales, zero points at either end and between."""
    generator = torch.Generator().manual_seed(seed)
    groups = -(-width // group_of(width, group_size))
    codes = torch.randint(0, 2**bits, (rows, width), generator=generator, dtype=torch.uint8)
    zeros = torch.randint(0, 2**bits, (rows, groups), generator=generator, dtype=torch.uint8)
    zeros[0, 0], zeros[-1, -1] = 0, 2**bits - 1
    return codes, (torch.rand(rows, groups, generator=generator) + 0.1).half(), zeros


def layer(rows: int, width: int, group_size: int, bits: int = 4, seed: int = 0) -> WeightOnlyLinear:
    """A layer of drawn codes, with a bias."""
    built = WeightOnlyLinear(width, rows, True, bits, group_size).fill(*drawn(rows, width, group_size, bits, seed))
    built.bias = nn.Parameter(torch.randn(rows, generator=torch.Generator().manual_seed(seed + 1)))
    return built.eval()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [1, 2, 7, 8, 33])
def test_packing_is_undone_and_takes_the_bytes_of_its_bits(bits, width):
    codes = torch.randint(0, 2**bits, (5, width), generator=torch.Generator().manual_seed(width), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (5, -(-width * bits // 8)) and packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, bits, width), codes)
    assert pack(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 4).tolist() == [[0x21, 0x03]]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "width", "group_size"), SHAPES)
def test_every_weight_is_its_scale_times_its_code_from_zero(rows, width, group_size, bits):
    codes, scales, zeros = drawn(rows, width, group_size, bits)
    built = WeightOnlyLinear(width, rows, False, bits, group_size).fill(codes, scales, zeros)
    size = width if group_size == -1 else group_size
    expected = [
        [
            float(scales[row, column // size]) * (int(codes[row, column]) - int(zeros[row, column // size]))
            for column in range(width)
        ]
        for row in range(rows)
    ]
    assert built.dense().tolist() == expected  # to the last bit: float16 times a byte fits into float32
    inputs = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(built(inputs), inputs @ torch.tensor(expected).T, rtol=1e-5, atol=1e-4)
    back = built.unpacked()
    assert torch.equal(back[0], codes) and torch.equal(back[1], zeros)


def test_a_pruned_weight_is_the_code_zero_wherever_its_zero_point_lies():
    codes, scales, zeros = drawn(4, 40, 16, 4)
    codes[:, ::3] = zeros.repeat_interleave(16, 1)[:, :40:3]
    built = WeightOnlyLinear(40, 4, False, 4, 16).fill(codes, scales, zeros)
    own = unpack(built.codes, 4, 40)
    assert bool((own[:, ::3] == 0).all()) and torch.equal(own == 0, built.dense() == 0)


def test_a_table_looks_up_what_its_matrix_holds():
    table = WeightOnlyEmbedding(9, 40, 3, 2.5, 4, 16).fill(*drawn(9, 40, 16, 4))
    ids = torch.tensor([[0, 8, 3], [3, 1, 0]])
    assert torch.equal(table(ids), table.dense()[ids] * 2.5)
    assert table.padding_idx == 3


def test_the_weight_is_empty_and_of_the_type_that_is_computed_in():
    built = layer(8, 32, 16)
    assert built.weight.numel() == 0 and built.weight.dtype == torch.float32
    assert "weight" not in built.state_dict()
    assert set(built.state_dict()) == {"codes", "scales", "zeros", "bias"}
    assert built(torch.randn(2, 32).bfloat16()).dtype == torch.bfloat16
    assert built.largest_code is None and built.runs_in("cpu", "f32") == "f32" and built.packed == "u4"


def test_it_takes_the_place_of_a_linear_and_of_gpt2s_transposed_one():
    for plain in (nn.Linear(32, 8), Conv1D(8, 32)):
        built = WeightOnlyLinear.build(plain, {"bits": 4, "group_size": 16})
        assert (built.in_features, built.out_features) == (32, 8) and built.bias is not None
    assert WeightOnlyLinear.build(nn.Linear(32, 8, bias=False), {"bits": 8, "group_size": -1}).bias is None


@pytest.mark.parametrize(
    ("cls", "plain", "spec", "said"),
    [
        (WeightOnlyLinear, nn.LayerNorm(4), {"bits": 4, "group_size": 16}, "is LayerNorm and no Linear"),
        (WeightOnlyEmbedding, nn.Linear(4, 4), {"bits": 4, "group_size": 16}, "is Linear and no Embedding"),
        (WeightOnlyLinear, nn.Linear(4, 4), {"bits": 3, "group_size": 16}, "bits=3 is not among 4 and 8"),
        (WeightOnlyLinear, nn.Linear(4, 4), {}, "bits=0 is not among"),
        (WeightOnlyLinear, nn.Linear(4, 4), {"bits": 4, "group_size": 48}, "group_size=48 is no power of two from 16"),
        (WeightOnlyLinear, nn.Linear(4, 4), {"bits": 4, "group_size": "16"}, "group_size='16' is no power of two"),
        (WeightOnlyLinear, nn.Linear(4, 4), {"bits": 4, "group_size": 8}, "group_size=8 is no power of two"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_phrase(cls: type[Stored], plain: nn.Module, spec: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        cls.build(plain, spec)


@pytest.fixture
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(5, 21).view(2, 8)).logits


def with_layer(model, group_size: int = 16, bits: int = 4):
    own = model.get_submodule(DENSE)
    replace_module(model, DENSE, layer(own.out_features, own.in_features, group_size, bits))
    return model.eval()


@pytest.mark.parametrize(("group_size", "bits"), [(16, 4), (128, 4), (-1, 8)])
def test_it_is_stored_at_its_width_and_comes_back(group_size, bits, tiny, tokenizer, tmp_path):
    model = with_layer(tiny("bert"), group_size, bits)
    save(model, tokenizer, tmp_path)
    node = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    spec = {"bits": bits, "group_size": group_size}
    assert node["modules"] == [{"kind": "weight_only_linear", "names": [DENSE], "spec": spec}]
    stored = load_file(tmp_path / "model.safetensors")
    own = {name.rpartition(".")[2]: tensor for name, tensor in stored.items() if name.startswith(DENSE)}
    assert set(own) == {"codes", "scales", "zeros", "bias"}
    groups = 2 if group_size == 16 else 1
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in own.items()}
    assert sizes == {"codes": 64 * 32 * bits // 8, "scales": 64 * groups * 2, "zeros": 64, "bias": 64 * 4}
    check(tmp_path)
    loaded = load(tmp_path)
    assert loaded.get_submodule(DENSE).scales.dtype == torch.float16
    assert torch.equal(logits(loaded), logits(model))


def test_what_is_mostly_pruned_or_symmetric_takes_fewer_bytes(tiny, tokenizer, tmp_path):
    model = tiny("bert")
    with_layer(model)
    codes, scales, zeros = drawn(64, 32, 16, 4)
    zeros[:] = 8
    codes[:, :28] = 8
    model.get_submodule(DENSE).fill(codes, scales, zeros)
    save(model, tokenizer, tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["tensors"]
    assert set(told) == {f"{DENSE}.codes", f"{DENSE}.zeros"}
    assert torch.equal(load(tmp_path).get_submodule(DENSE).dense(), model.get_submodule(DENSE).dense())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"bits": 5, "group_size": 16}, "bits=5 is not among 4 and 8"),
        ({"bits": 4, "group_size": 32}, "codes is|scales is"),
    ],
)
def test_a_file_that_tells_another_grid_is_refused(spec, said, tiny, tokenizer, tmp_path):
    save(with_layer(tiny("bert")), tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["modules"][0]["spec"] = spec
    (tmp_path / "config.json").write_text(json.dumps(config))
    for reader in (load, check):
        with pytest.raises(UserError, match=said):
            reader(tmp_path)


def test_copies_and_states_carry_everything():
    one = layer(8, 40, 16)
    with torch.device("meta"):
        twin = WeightOnlyLinear(40, 8, True, 4, 16)
    twin.load_state_dict(one.state_dict(), assign=True)
    inputs = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    assert torch.equal(twin(inputs), one(inputs)) and torch.equal(copy.deepcopy(one)(inputs), one(inputs))
    assert isinstance(twin, Grouped) and "bits=4" in repr(twin)


def test_what_is_unpacked_once_is_never_that_of_other_codes_and_is_not_copied():
    one, other = layer(8, 40, 16), layer(8, 40, 16, seed=5)
    inputs = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = one(inputs)
        assert one._ready is not None and one(inputs).equal(before) and copy.deepcopy(one)._ready is None
        one.load_state_dict(other.state_dict())  # in place
        assert torch.equal(one(inputs), other(inputs)) and not torch.equal(one(inputs), before)
        one.scales = one.scales * 2
        assert torch.allclose(one(inputs) - one.bias, 2 * (other(inputs) - other.bias), atol=1e-4)
    with torch.inference_mode():
        assert torch.equal(other(inputs), functional.linear(inputs, other.dense(), other.bias))
    inputs.requires_grad_()
    other(inputs).sum().backward()
    assert torch.allclose(inputs.grad, other.dense().sum(0).expand(3, -1), atol=1e-4)

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import compress_exp
from compress_exp.formats.artifact import save
from compress_exp.formats.codecs import bitmask, n_m
from compress_exp.layers.surgery import pruned_modules
from compress_exp.methods.parametrized import bake, mark_masked
from compress_exp.methods.prune.n_m import NMPruning, n_m_mask
from compress_exp.methods.quant.bf16 import BFloat16
from compress_exp.methods.quant.int8 import Int8
from tests.forward import forward_logits
from tests.moments import at


def sparse(n, m, dtype=torch.float32, shape=(12, 64)):
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(n)) * 50).to(dtype)
    return weight * n_m_mask(weight.abs().float(), torch.ones(shape, dtype=torch.bool), n, m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 4), (1, 8), (4, 8), (7, 8)])
def test_weights_come_back_to_the_last_bit(n, m, dtype):
    weight = sparse(n, m, dtype)
    codes, values = n_m.encode_groups(weight, m)
    assert values.shape == (weight.numel() // m, n)
    assert codes.numel() == math.ceil(weight.numel() // m * math.ceil(math.log2(math.comb(m, n))) / 8)
    assert torch.equal(n_m.decode_groups(codes, values, weight.shape), weight)


def test_every_pattern_of_two_of_four_has_its_three_bits():
    weight = torch.zeros(6, 4)
    for row, (first, second) in enumerate(combinations(range(4), 2)):
        weight[row, first], weight[row, second] = 1.0, 2.0
    codes, values = n_m.encode_groups(weight, 4)
    assert values.tolist() == [[1.0, 2.0]] * 6
    written = sum(number << (3 * number) for number in range(6))
    assert codes.tolist() == [(written >> shift) & 255 for shift in (0, 8, 16)]


def test_groups_with_fewer_left_come_back_too():
    weight = sparse(2, 4)
    weight[0] = 0
    weight[1, ::4] = 0
    codes, values = n_m.encode_groups(weight, 4)
    assert torch.equal(n_m.decode_groups(codes, values, weight.shape), weight)
    nothing = torch.zeros(4, 8)
    assert torch.equal(n_m.decode_groups(*n_m.encode_groups(nothing, 8), nothing.shape), nothing)


@pytest.mark.parametrize(
    ("n", "m", "dtype", "expected"),
    [
        (2, 4, torch.float32, 16.75 / 17),
        (4, 8, torch.float32, 16.875 / 17),
        (2, 4, torch.int8, 4.75 / 5),
        (4, 8, torch.int8, 4.875 / 5),
    ],
)
def test_it_takes_the_share_of_the_bitmask_form_that_the_text_says(n, m, dtype, expected):
    weight = sparse(n, m, dtype, (64, 256))
    weight[(weight == 0) & n_m_mask(weight.abs().float(), torch.ones_like(weight, dtype=torch.bool), n, m)] = 1
    group, size = n_m.smallest_group(weight)
    assert group == m
    assert size == sum(tensor.numel() * tensor.element_size() for tensor in n_m.encode_groups(weight, m))
    assert size / bitmask.size(weight, 1) == pytest.approx(expected, abs=1e-9)


def pruned(model, context, budget, n, m):
    model = NMPruning(name="prune/n_m", train=budget, n=n, m=m).prepare(model, context)
    mark_masked(model)
    bake(model)
    return model


@pytest.mark.parametrize("kind", ["", "int8", "bf16"])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8)])
@pytest.mark.parametrize("model_type", ["bert", "albert", "gpt2", "t5", "bart"])
def test_an_artifact_is_stored_so_and_loads_with_equal_logits(
    model_type, n, m, kind, tiny, context, no_budget, batch, tmp_path
):
    model = pruned(tiny(model_type), context(model_type), no_budget, n, m)
    if kind == "int8":
        method = Int8(name="quant/static", train=no_budget)
        model = method.convert(at(method.prepare(model, context(model_type))))
    if kind == "bf16":
        model = BFloat16(name="quant/bf16", train=no_budget).convert(at(model))
    save(model, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), tmp_path)
    stored, names = load_file(tmp_path / "model.safetensors"), [name for name, _ in pruned_modules(model)]
    packed = [name for name in names if f"{name}.weight_patterns" in stored]
    assert len(packed) == len(names) if kind != "int8" else packed
    for name in packed:
        weight = model.get_submodule(name).weight
        bits = math.ceil(math.log2(math.comb(m, n)))
        assert stored[f"{name}.weight_patterns"].numel() == math.ceil(weight.numel() // m * bits / 8)
        assert stored[f"{name}.weight_values"].shape == (weight.numel() // m, n)
    again = compress_exp.load(tmp_path)
    for name in names:
        assert torch.equal(again.get_submodule(name).weight, model.get_submodule(name).weight)
    with torch.no_grad():
        assert torch.equal(forward_logits(again, batch), forward_logits(model, batch))


def test_what_is_not_so_pruned_keeps_its_bitmask(tiny, context, no_budget, tmp_path):
    model = pruned(tiny("bert"), context("bert"), no_budget, 2, 4)
    dense = model.bert.encoder.layer[0].attention.self.query
    dense.weight.data.copy_(sparse(1, 2, shape=(32, 32)))
    save(model, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "bert.encoder.layer.0.attention.self.query.weight_patterns" in stored  # 1:2 is 2:4 as well
    dense.weight.data.view(-1)[torch.randperm(1024, generator=torch.Generator().manual_seed(0))[:400]] = 1.0
    save(model, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "bert.encoder.layer.0.attention.self.query.weight_bitmask" in stored

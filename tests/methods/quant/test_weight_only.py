"""Rounding to nearest in groups: the grid by hand, what it keeps, and which modules it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from compress_exp.config.checks import FieldError, UserError
from compress_exp.experiment.build import apply_stage, publish
from compress_exp.formats.artifact import load, save
from compress_exp.layers.surgery import is_pruned
from compress_exp.layers.weight_only import Grouped, WeightOnlyEmbedding, WeightOnlyLinear
from compress_exp.measurement.size import size
from compress_exp.methods.parametrized import bake, lock, mark_masked
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.quant.weight_only import FakeQuantGroups, WeightOnly, grid, nearest
from compress_exp.methods.select import Select
from tests.experiments import planned
from tests.forward import forward_logits
from tests.moments import at

FAMILIES = ("bert", "roberta", "distilbert", "albert", "gpt2", "t5", "bart")
TIED = ("gpt2", "t5", "bart")


@pytest.fixture
def method(no_budget):
    def make(**settings):
        return WeightOnly(name="quant/weight_only", train=no_budget, **{"group_size": 16, **settings})

    return make


def test_the_grid_of_a_group_by_hand():
    # Range −0.5 … 1.0: s = 1.5 / 15 = 0.1, z = 5; range of the shorter last group 0 … 3: s = 0.2, z = 0.
    row = torch.tensor([[-0.5, 1.0, 0.26, -0.14, *[0.0] * 12, 3.0, 0.31]])
    scales, zeros = grid(row, 4, 16, symmetric=False)
    assert scales.dtype == torch.float16 and scales.tolist() == [
        [pytest.approx(0.1, rel=1e-3), pytest.approx(0.2, rel=1e-3)]
    ]
    assert zeros.tolist() == [[5, 0]]
    codes = nearest(row, scales, zeros, 4, 16)
    assert codes.tolist() == [[0, 15, 8, 4, *[5] * 12, 15, 2]]
    # Symmetric: s = 1 / 7 and 3 / 7, zero in the middle, codes 1 … 15.
    row[0, 0] = -0.6
    scales, zeros = grid(row, 4, 16, symmetric=True)
    assert scales.tolist() == [[pytest.approx(1 / 7, rel=1e-3), pytest.approx(3 / 7, rel=1e-3)]]
    assert zeros.tolist() == [[8, 8]]
    assert nearest(row, scales, zeros, 4, 16).tolist() == [[4, 15, 10, 7, *[8] * 12, 15, 9]]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [16, 32, -1])
def test_rounding_is_near_keeps_zero_and_has_few_values(group_size, bits, symmetric):
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    weight[0, :20], weight[1] = 0.0, 0.0
    weight[2] = weight[2].abs() + 1.0  # no value of either sign: the grid still holds zero
    weight[2, 7] = 0.0
    weight[3] = 1e-4 * weight[3]
    quantizer = FakeQuantGroups(False, bits, group_size, symmetric)
    rounded = quantizer(weight)
    scales, _ = grid(weight, bits, group_size, symmetric)
    size = 40 if group_size == -1 else group_size
    step = scales.float().repeat_interleave(size, 1)[:, :40]
    assert bool(((weight - rounded).abs() <= step / 2 * (1 + 1e-4)).all())
    assert bool((rounded[weight == 0] == 0).all())
    assert all(len(row.unique()) <= 2**bits for part in rounded.split(size, 1) for row in part)


def test_smaller_groups_and_more_bits_come_nearer():
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))

    def error(bits: int, group_size: int) -> float:
        return float((FakeQuantGroups(False, bits, group_size, False)(weight) - weight).square().mean())

    assert error(4, 16) < error(4, 64) < error(4, 256) and error(4, 256) == error(4, -1)
    assert error(8, 64) < error(4, 64) / 200  # 24 dB of four bits more, about 250


def test_transposed_weights_are_rounded_along_their_inputs():
    weight = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    turned = FakeQuantGroups(True, 4, 16, False)(weight)
    assert torch.equal(turned, FakeQuantGroups(False, 4, 16, False)(weight.T).T)


def test_gradients_pass_straight_through():
    weight = torch.randn(4, 20, requires_grad=True)
    factor = torch.randn(4, 20)
    (FakeQuantGroups(False, 4, 16, False)(weight) * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_projection_is_packed_and_computes_what_it_did_before(model_type, tiny, context, method, batch):
    model = method().prepare(tiny(model_type), context(model_type))
    with torch.no_grad():
        before = forward_logits(model, batch)
    family = context(model_type).family
    names = [
        name for name, module in model.named_modules() if family.role(name, nn.Linear(1, 1)) in family.roles.values()
    ]
    model = method().convert(at(model))
    with torch.no_grad():
        after = forward_logits(model, batch)
    assert torch.equal(before, after)
    packed = [name for name, module in model.named_modules() if isinstance(module, Grouped)]
    assert packed and set(packed) <= set(names)
    assert all(isinstance(model.get_submodule(name), WeightOnlyLinear) for name in packed)
    assert type(model.get_input_embeddings()).__name__ != "WeightOnlyEmbedding"


@pytest.mark.parametrize("model_type", FAMILIES)
def test_tables_and_heads_are_packed_on_demand_and_tied_ones_once(
    model_type, tiny, context, method, batch, tmp_path, tokenizer
):
    method = method(select=Select(roles=("embedding", "head", "ffn_in")))
    model = method.prepare(tiny(model_type), context(model_type))
    with torch.no_grad():
        before = forward_logits(model, batch)
    model = method.convert(at(model))
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(table, WeightOnlyEmbedding)
    if model_type in TIED:
        assert isinstance(head, WeightOnlyLinear) and head.codes.data_ptr() == table.codes.data_ptr()
    save(model, tokenizer, tmp_path)
    with torch.no_grad():
        assert torch.equal(forward_logits(model, batch), before)
        assert torch.equal(forward_logits(loaded := load(tmp_path), batch), before)
    if model_type in TIED:
        assert loaded.get_output_embeddings().codes.data_ptr() == loaded.get_input_embeddings().codes.data_ptr()


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))


def test_t5_keeps_computing_in_floats_where_it_looks_at_the_type_of_wo(tiny, context, method, batch):
    model = tiny("t5")
    seen = []
    model = method(bits=8).convert(at(method(bits=8).prepare(model, context("t5"))))
    wo = model.encoder.block[0].layer[1].DenseReluDense.wo
    wo.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        forward_logits(model, batch)
    assert isinstance(wo, WeightOnlyLinear) and seen[0].dtype == torch.float32
    assert bool((seen[0] != seen[0].round()).any())


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_pruned_weights_stay_zero_also_where_the_mask_comes_after_the_grid(
    model_type, symmetric, tiny, context, method, budget
):
    prune = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.7, schedule="one_shot")
    own = method(symmetric=symmetric)
    first = prune.prepare(tiny(model_type), context(model_type))
    prune.step(at(first, 1.0))
    mark_masked(first)
    bake(first)
    lock(first)
    first = own.convert(at(own.prepare(first, context(model_type))))

    second = own.prepare(tiny(model_type), context(model_type))
    second = prune.prepare(second, context(model_type))
    prune.step(at(second, 1.0))
    mark_masked(second)
    second = own.convert(at(second))
    for model in (first, second):
        packed = [module for module in model.modules() if isinstance(module, Grouped)]
        zeros = sum(int((module.dense() == 0).sum()) for module in packed)
        assert packed and all(is_pruned(module) for module in packed)
        assert zeros >= 0.69 * sum(module.dense().numel() for module in packed)


def test_the_record_counts_real_bytes_and_weights(data, dense, tmp_path):
    plan = planned("bert", data, "method=quant/weight_only", "method.quant.group_size=16")
    base = dense(plan)
    built = apply_stage(plan, 0, base, base, tmp_path)
    publish(built, tmp_path)
    model, plain = load(tmp_path), load(base)
    block = size(tmp_path, model, base, 1, 1)
    assert block["parameters"] == sum(p.numel() for p in plain.parameters())
    packed = sum(module.dense().numel() for module in model.modules() if isinstance(module, Grouped))
    rest = block["parameters"] - packed
    bits = 4 + (16 + 4) / 16  # groups of 16, widths of 32 and 64
    expected = (packed * bits + 32 * rest) / block["parameters"]
    header = 8 * 20_000 / block["parameters"]
    assert expected < block["bits_per_weight"] < expected + header
    assert block["artifact_bytes"] < block["baseline_artifact_bytes"]
    zeros = sum(int((m.dense() == 0).sum()) for m in model.modules() if isinstance(m, Grouped))
    assert block["nonzero_parameters"] <= block["parameters"] - zeros


def test_it_trains_on_its_grid_where_it_has_a_budget(data, dense, tmp_path):
    plan = planned(
        "bert", data, "method=quant/weight_only", "method.quant.train.max_steps=3", "train.learning_rate=1e-3"
    )
    base = dense(plan)
    built = apply_stage(plan, 0, base, base, tmp_path)
    assert built.steps == 3 and all(0 < row["quantization_error"] < 0.1 for row in built.history)
    name = "bert.encoder.layer.0.output.dense"
    trained, before = built.model.get_submodule(name), load(base).get_submodule(name)
    codes, scales, zeros = FakeQuantGroups(False, 4, 128, False).quantize(before.weight)
    at_once = WeightOnlyLinear(64, 32, False, 4, 128).fill(codes, scales, zeros)
    assert not torch.equal(trained.dense(), at_once.dense())


def test_nothing_follows_packed_weights(facts, method, budget):
    with pytest.raises(FieldError, match="nothing can follow quant/weight_only"):
        MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5).check(method().check(facts("bert")))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("bits=3", r"method\.quant\.bits: 3 is not among 4 and 8"),
        ("group_size=48", r"method\.quant\.group_size: 48 is no power of two from 16 on, nor -1 for whole rows"),
        ("group_size=-2", r"method\.quant\.group_size: -2 is no power of two"),
        ("group_size=0", r"method\.quant\.group_size: 0 is no power of two"),
        ("select.roles=[position_embedding]", r"method\.quant\.select\.roles: position_embedding cannot be packed"),
    ],
)
def test_what_cannot_be_is_refused_in_the_plan(setting, said, data):
    with pytest.raises(UserError, match=said) as caught:
        planned("bert", data, "method=quant/weight_only", f"method.quant.{setting}")
    assert "\n" not in str(caught.value)


def test_selected_weights_alone_are_packed(tiny, context, method):
    chosen = method(select=replace(Select(), roles=("query",), exclude=("*layer.0*",)))
    model = chosen.convert(at(chosen.prepare(tiny("bert"), context("bert"))))
    packed = [name for name, module in model.named_modules() if isinstance(module, Grouped)]
    assert packed == [f"bert.encoder.layer.{index}.attention.self.query" for index in (1, 2, 3)]

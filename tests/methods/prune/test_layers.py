from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress_exp.config.checks import FieldError
from compress_exp.layers.blocks import with_layers
from compress_exp.methods.distill.student import Student, fewer_layers
from compress_exp.methods.prune.layers import LayerPruning, counts_of, survivors
from compress_exp.models.families.base import family_of, layer_counts
from tests.conftest import ARCHITECTURES
from tests.forward import forward_logits
from tests.slimming import build, generated


@pytest.fixture
def method(no_budget):
    return lambda **values: LayerPruning(name="prune/layers", train=no_budget, **values)


@pytest.mark.parametrize(
    ("keep", "depth", "count", "expected"),
    [
        ("every_other", 12, 6, [0, 2, 4, 6, 8, 10]),
        ("every_other", 12, 4, [0, 3, 6, 9]),
        ("first", 6, 2, [0, 1]),
        ("last", 6, 2, [4, 5]),
        ("block_influence", 4, 2, [1, 3]),
        ("block_influence", 4, 3, [0, 1, 3]),
        ("every_other", 5, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_which_layers_stay(keep, depth, count, expected):
    assert survivors(keep, depth, count, [0.1, 0.4, 0.1, 0.2]) == expected


def test_each_stack_keeps_its_share_and_at_least_one_layer():
    assert counts_of({"encoder": 12, "decoder": 6}, 0.5) == {"encoder": 6, "decoder": 3}
    assert counts_of({"encoder": 12}, 0.999) == {"encoder": 1}


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "albert"])
@pytest.mark.parametrize("keep", ["every_other", "first", "last", "block_influence"])
def test_surviving_layers_are_equal_to_the_last_bit(name, keep, method, context):
    model, family = build(name), family_of(name)
    smaller = method(sparsity=0.5, keep=keep).prepare(model, context(name))
    depths = layer_counts(model.config, family)
    assert layer_counts(smaller.config, family) == {stack: depth // 2 for stack, depth in depths.items()}
    blocks = {n.rpartition(".")[0]: [] for n, _ in model.named_modules() if family.block_of(f"{n}.") == n}
    for parent, chosen in blocks.items():
        source, stays = model.get_submodule(parent), smaller.get_submodule(parent)
        for block in stays:
            own = {n: p for n, p in block.named_parameters() if "relative" not in n}
            chosen += [
                index
                for index, other in enumerate(source)
                if all(torch.equal(p, dict(other.named_parameters())[n]) for n, p in own.items())
            ]
        if keep != "block_influence":
            assert chosen == survivors(keep, len(source), len(stays))
        assert len(chosen) == len(stays) and chosen == sorted(chosen)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "bart"])
def test_all_layers_are_the_model(name, batch, context, method):
    model = build(name)
    with torch.no_grad():
        expected = forward_logits(model, batch)
        assert torch.equal(forward_logits(method(sparsity=0.0).prepare(model, context(name)).eval(), batch), expected)


def test_the_relative_bias_outlives_the_block_that_holds_it(batch):
    model, family = build("t5"), family_of("t5")
    smaller = with_layers(model, family, {"encoder": [1], "decoder": [1]}).eval()
    for stack in (model.encoder, model.decoder):
        # A residual block whose projections out are zero is not there, but for its bias.
        for layer in stack.block[0].layer:
            inner = getattr(layer, "SelfAttention", getattr(layer, "EncDecAttention", None))
            (inner.o if inner is not None else layer.DenseReluDense.wo).weight.data.zero_()
    with torch.no_grad():
        assert torch.allclose(forward_logits(smaller, batch), forward_logits(model, batch), atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart"])
def test_generation_with_a_cache_equals_generation_without(name, batch, method, context):
    model = method(sparsity=0.5, keep="last").prepare(build(name), context(name)).eval()
    cached, whole = generated(model, batch, use_cache=True), generated(model, batch, use_cache=False)
    assert torch.allclose(cached, whole, atol=1e-5)
    assert float((cached[1:] - cached[:-1]).abs().max()) > 1e-2


def test_albert_runs_its_one_block_less_often(batch, method, context):
    model = build("albert")
    smaller = method(sparsity=0.5, keep="block_influence").prepare(model, context("albert")).eval()
    model.config.num_hidden_layers = 2
    with torch.no_grad():
        assert torch.equal(forward_logits(smaller, batch), forward_logits(model, batch))


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_parameters_and_megabytes_take_the_nearest_number_of_layers(name, method, context):
    model, family = build(name), family_of(name)
    wanted = method(sparsity=0.5).prepare(model, context(name)).num_parameters()
    for values in ({"parameters": wanted + 100}, {"megabytes": 4e-6 * wanted + 0.002}):
        found = method(**values).prepare(model, context(name))
        assert found.num_parameters() == wanted
    with pytest.raises(FieldError, match=r"parameters: 10 cannot be reached by dropping layers; from"):
        method(parameters=10).prepare(model, context(name))
    assert layer_counts(model.config, family) != layer_counts(found.config, family)


def test_what_cannot_be_is_said_before_anything_trains(method, facts, budget):
    with pytest.raises(FieldError, match=r"sparsity: 0.1 is less than one layer \(4 in the encoder\); at least 0.125"):
        method(sparsity=0.1).check(facts("bert"))
    with pytest.raises(FieldError, match=r"parameters: one block serves every layer .* set sparsity instead"):
        method(parameters=1000).check(facts("albert"))
    after = method(sparsity=0.5).check(replace(facts("bert"), heads={"encoder": 2}))
    assert after.layers == {"encoder": 2} and after.heads == {"encoder": 2}
    with pytest.raises(FieldError, match="3 layers are more than the 2"):
        Student(name="distill/hard", train=budget, layers=3).check(after)
    with pytest.raises(FieldError, match="keep: "):
        method(sparsity=0.5, keep="middle")


def test_more_layers_than_are_left_are_refused_where_their_number_was_not_known():
    model, family = build("bert"), family_of("bert")
    with pytest.raises(FieldError, match=r"layers: 5 layers are more than the 4 of the encoder"):
        fewer_layers(model, family, {"encoder": 5})

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from compress_exp.config.checks import FieldError
from compress_exp.layers.sharing import blocks_of, shared_blocks
from compress_exp.methods.prune.cofi import CofiPruning
from compress_exp.methods.prune.heads import HeadPruning
from compress_exp.methods.prune.layers import LayerPruning
from compress_exp.methods.select import Select, targets
from compress_exp.methods.share.layers import LayerSharing, sets_of
from compress_exp.models.families.base import family_of
from tests.forward import forward_logits
from tests.slimming import build, generated

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "t5", "t5_gated", "bart")


@pytest.fixture
def method(no_budget):
    return lambda **values: LayerSharing(name="share/layers", train=no_budget, **values)


@pytest.fixture
def shared(method, context):
    def make(family, **values):
        return method(**values).prepare(build(family), context(family.removesuffix("_gated"))).eval()

    return make


def layers(model, family):
    stacks = {}
    for name, block in blocks_of(model, family_of(family.removesuffix("_gated"))):
        stacks.setdefault(name.rpartition(".")[0], []).append(block)
    return list(stacks.values())


def unshared(model, family):
    """The same values in tensors of their own, built without the package's help."""
    other = build(family)
    other.load_state_dict(model.state_dict())
    return other.eval()


@pytest.mark.parametrize(
    ("depth", "group", "pattern", "expected"),
    [
        (6, 2, "sequence", [0, 0, 1, 1, 2, 2]),
        (5, 2, "sequence", [0, 0, 1, 1, 2]),
        (6, 2, "cycle", [0, 1, 2, 0, 1, 2]),
        (6, 3, "cycle", [0, 1, 0, 1, 0, 1]),
        (6, 2, "cycle_rev", [0, 1, 2, 2, 1, 0]),
        (6, 3, "cycle_rev", [0, 1, 0, 1, 1, 0]),
        (4, None, "sequence", [0, 0, 0, 0]),
        (4, None, "cycle", [0, 0, 0, 0]),
        (1, 2, "cycle_rev", [0]),
    ],
)
def test_which_layers_share(depth, group, pattern, expected):
    assert sets_of(depth, group, pattern) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", ["first", "mean"])
def test_layers_have_one_set_of_weights_and_modules_of_their_own(family, start, shared):
    model, dense = shared(family, start=start), build(family)
    for own, before in zip(layers(model, family), layers(dense, family), strict=True):
        for index, block in enumerate(own):
            first = dict(own[index // 2 * 2].named_parameters())
            others = [dict(other.named_parameters()) for other in before[index // 2 * 2 : index // 2 * 2 + 2]]
            for name, parameter in block.named_parameters():
                assert parameter is first[name]
                values = [other[name] for other in others[: 1 if start == "first" else 2] if name in other]
                assert torch.allclose(parameter, sum(values) / len(values), atol=1e-6)
            assert not {id(m) for m in block.modules()} & {
                id(m) for other in own if other is not block for m in other.modules()
            }
    blocks = sum(p.numel() for block in layers(dense, family)[0][:1] for p in block.parameters())
    assert dense.num_parameters() - model.num_parameters() >= blocks


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
@pytest.mark.parametrize("pattern", ["sequence", "cycle"])
def test_generation_with_a_cache_equals_generation_without(family, pattern, batch, shared):
    model = shared(family, pattern=pattern)
    cached, whole = generated(model, batch, use_cache=True), generated(model, batch, use_cache=False)
    assert torch.allclose(cached, whole, atol=1e-5)
    assert torch.allclose(whole, generated(unshared(model, family), batch, use_cache=True), atol=1e-5)
    assert float((cached[1:] - cached[:-1]).abs().max()) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_a_shared_weight_is_the_sum_over_its_layers(family, batch, shared):
    model = shared(family)
    other = unshared(model, family)
    for one in (model, other):
        forward_logits(one, batch).square().mean().backward()
    for own, apart in zip(layers(model, family), layers(other, family), strict=True):
        for index in range(0, len(own), 2):
            users = [dict(block.named_parameters()) for block in apart[index : index + 2]]
            assert all((tensor.grad != 0).any() for user in users for tensor in user.values() if tensor.dim() > 1)
            for name, parameter in own[index].named_parameters():
                expected = sum(user[name].grad for user in users if name in user)
                assert torch.allclose(parameter.grad, expected, atol=1e-6), name


def test_all_layers_of_a_stack_may_share(shared):
    model = shared("bart", group=None)
    assert set(shared_blocks(model, family_of("bart")).values()) == {
        "model.encoder.layers.0",
        "model.decoder.layers.0",
    }
    assert len(targets(model, family_of("bart"), Select(include=("*encoder.layers*",)))) == 6


def test_parents_and_successors_that_cannot_be_are_refused(method, facts, context, budget, no_budget):
    with pytest.raises(FieldError, match="group: 1 "):
        method(group=1)
    with pytest.raises(FieldError, match="one block serves every layer"):
        method().check(facts("albert"))
    with pytest.raises(FieldError, match="start: the mean of layers would undo the pruning before it; set start=first"):
        method(start="mean").check(replace(facts("bert"), pruned=True))
    with pytest.raises(FieldError, match="no stack of this model has two layers"):
        method().check(replace(facts("bert"), layers={"encoder": 1}))
    after = method().check(facts("bert"))
    assert after.layers == facts("bert").layers
    with pytest.raises(FieldError, match="share/layers lets layers share their weights already"):
        method().check(after)
    cannot = "heads and neurons cannot go from layers that share their weights; put share/layers after it"
    with pytest.raises(FieldError, match=cannot):
        HeadPruning(name="prune/heads", train=no_budget, sparsity=0.5).check(after)
    with pytest.raises(FieldError, match=cannot):
        CofiPruning(name="prune/cofi", train=budget, sparsity=0.5).check(after)
    assert LayerPruning(name="prune/layers", train=no_budget, sparsity=0.5).check(after).layers == {"encoder": 2}
    with pytest.raises(FieldError, match="parameters: layers share their weights in this model"):
        LayerPruning(name="prune/layers", train=no_budget, parameters=1000).check(after)
    model = build("bert")
    model.bert.encoder.layer[1].intermediate.dense = nn.Linear(32, 48)
    with pytest.raises(FieldError, match=r"encoder.layer.1 has not the shapes of bert.encoder.layer.0"):
        method().prepare(model, context("bert"))

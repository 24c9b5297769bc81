"""Which weights go: exactly as many as asked for, of all, of each tensor, or of each output."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils import prune as reference

from compress_exp.methods.parametrized import Mask, attached, bake, lock, mark_masked
from compress_exp.methods.prune.common import base
from compress_exp.methods.prune.common.ranking import ranked_masks, smallest
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import family_of
from tests.moments import at


@pytest.fixture
def method(budget):
    return MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5)


def modules_of(model, select=None):
    family = family_of(model.config.model_type)
    return [target.modules[0] for target in targets(model, family, select or Select())]


def cut(method, model, context):
    """The pruned model as a later stage finds it."""
    method.step(at(method.prepare(model, context), 1.0))
    mark_masked(model)
    bake(model)
    return model


def by_output(model, weight):
    return weight.T if model.config.model_type == "gpt2" else weight


@pytest.mark.parametrize("count", [0, 1, 7, 19, 20])
def test_smallest_marks_exactly_the_count_and_breaks_ties_by_index(count):
    scores = torch.tensor([3.0, 1.0, 1.0, 2.0] * 5)
    expected = np.zeros(20, dtype=bool)
    expected[np.argsort(scores.numpy(), kind="stable")[:count]] = True
    assert smallest(scores.view(4, 5), count).flatten().tolist() == expected.tolist()


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.9])
def test_masks_of_one_tensor_equal_torch_l1_unstructured(sparsity):
    torch.manual_seed(0)
    linear = torch.nn.Linear(31, 17)
    ours = ranked_masks([linear.weight.abs()], [torch.ones_like(linear.weight, dtype=torch.bool)], sparsity, "tensor")[
        0
    ]
    reference.l1_unstructured(linear, "weight", amount=sparsity)
    assert torch.equal(ours, linear.weight_mask.bool())


def test_global_masks_equal_torch_global_unstructured():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(16, 16), torch.nn.Linear(16, 40)]
    layers[1].weight.data *= 3
    weights = [layer.weight.detach().clone() for layer in layers]
    ours = ranked_masks(
        [w.abs() for w in weights], [torch.ones_like(w, dtype=torch.bool) for w in weights], 0.4, "global"
    )
    reference.global_unstructured([(layer, "weight") for layer in layers], reference.L1Unstructured, amount=0.4)
    for mask, layer in zip(ours, layers, strict=True):
        assert torch.equal(mask, layer.weight_mask.bool())


def test_energy_removed_from_a_gaussian_has_its_closed_form():
    weight = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))
    for sparsity, expected in ((0.2, 0.0043), (0.5, 0.071)):
        mask = ranked_masks([weight.abs()], [torch.ones_like(weight, dtype=torch.bool)], sparsity, "tensor")[0]
        removed = float((weight * ~mask).square().sum() / weight.square().sum())
        assert abs(removed - expected) < 0.001


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_masks_only_ever_lose_weights_whatever_cut_before(scope):
    weights = [torch.randn(10, 10, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    before = [torch.ones(10, 10, dtype=torch.bool) for _ in weights]
    before[0].view(-1)[:80] = False
    after = ranked_masks([w.abs() for w in weights], before, 0.5, scope)
    assert all(bool((new <= old).all()) for new, old in zip(after, before, strict=True))
    zeros = [int((~mask).sum()) for mask in after]
    assert zeros == [80, 50] if scope == "tensor" else sum(zeros) == 100


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_all_scopes_keep_the_same_number_and_a_global_one_the_most_energy(model_type, sparsity, tiny, context, method):
    before = [module.weight.detach().clone() for module in modules_of(tiny(model_type))]
    for index, weight in enumerate(before):
        weight *= 1 + 0.2 * (index % 3)

    def kept(scope: str):
        model = tiny(model_type)
        for module, weight in zip(modules_of(model), before, strict=True):
            module.weight.data.copy_(weight)
        model = cut(replace(method, sparsity=sparsity, scope=scope), model, context(model_type))
        return torch.cat([(module.weight != 0).flatten() for module in modules_of(model)])

    energy = torch.cat([weight.flatten() for weight in before]).double().square()
    masks = {scope: kept(scope) for scope in ("global", "tensor", "row")}
    assert {int(mask.sum()) for mask in masks.values()} == {round((1 - sparsity) * len(energy))}
    most = float(energy[masks["global"]].sum())
    assert float(energy[masks["tensor"]].sum()) < most and float(energy[masks["row"]].sum()) < most
    generator = torch.Generator().manual_seed(0)
    inside, outside = (torch.nonzero(masks["global"] == side).flatten() for side in (True, False))
    for _ in range(200):
        dropped = inside[torch.randint(len(inside), (), generator=generator)]
        taken = outside[torch.randint(len(outside), (), generator=generator)]
        assert energy[taken] <= energy[dropped]


def test_where_all_tensors_hold_the_same_values_a_global_cut_is_that_of_each_tensor(tiny, context, method):
    select = Select(roles=("query", "key", "value", "attention_output"))
    masks = []
    for scope in ("global", "tensor"):
        model = tiny("bert")
        values = modules_of(model, select)[0].weight.detach().clone()
        for module in modules_of(model, select):
            module.weight.data.copy_(values)
        cut(replace(method, sparsity=0.375, scope=scope, select=select), model, context("bert"))
        masks.append([module.weight != 0 for module in modules_of(model, select)])
    assert all(torch.equal(wide, own) for wide, own in zip(*masks, strict=True))
    assert [int((~mask).sum()) for mask in masks[0]] == [384] * 16


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.77])
def test_every_output_loses_its_share_to_within_one_weight(model_type, sparsity, tiny, context, method):
    before = [
        by_output(model, module.weight.detach().clone()) for model in [tiny(model_type)] for module in modules_of(model)
    ]
    model = cut(replace(method, sparsity=sparsity, scope="row"), tiny(model_type), context(model_type))
    for module, dense in zip(modules_of(model), before, strict=True):
        weight = by_output(model, module.weight.detach())
        zeros = (weight == 0).sum(1).tolist()
        share = sparsity * weight.shape[1]
        assert set(zeros) <= {math.floor(share), math.ceil(share)}
        assert sum(zeros) == round(sparsity * weight.numel())
        for row, values, count in zip(weight, dense, zeros, strict=True):
            assert set(torch.nonzero(row == 0).flatten().tolist()) == set(values.abs().argsort()[:count].tolist())


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_a_row_cut_after_a_tensor_wise_cut_of_an_earlier_stage_fills_up_each_row(model_type, tiny, context, method):
    model = cut(method, tiny(model_type), context(model_type))
    earlier = [by_output(model, module.weight.detach().clone()) for module in modules_of(model)]
    assert any(len(set((weight == 0).sum(1).tolist())) > 3 for weight in earlier)
    lock(model)
    cut(replace(method, sparsity=0.625, scope="row"), model, context(model_type))
    for module, before in zip(modules_of(model), earlier, strict=True):
        weight = by_output(model, module.weight.detach())
        wanted = round(0.625 * weight.shape[1])
        for row, old in zip(weight, before, strict=True):
            gone = int((old == 0).sum())
            assert int((row == 0).sum()) == max(wanted, gone)
            assert bool((row[old == 0] == 0).all())
            lost = (row == 0) & (old != 0)
            assert not bool(lost.any()) or float(old[lost].abs().max()) <= float(row[row != 0].abs().min())


@pytest.mark.parametrize(("schedule", "rankings"), [("one_shot", 1), ("cubic", 100)])
def test_masks_are_ranked_once_or_at_most_a_hundred_times(schedule, rankings, tiny, context, method, monkeypatch):
    calls = []
    ranked = base.ranked_masks

    def counting(scores, kept, sparsity, scope):
        calls.append(sparsity)
        return ranked(scores, kept, sparsity, scope)

    monkeypatch.setattr(base, "ranked_masks", counting)
    gradual = replace(method, schedule=schedule, sparsity=0.6, scope="row")
    model = gradual.prepare(tiny("gpt2"), context("gpt2"))
    for step in range(500):
        gradual.step(at(model, gradual.own_progress((step + 1) / 500)))
    assert len(calls) == rankings and calls[-1] == 0.6 and calls == sorted(set(calls))
    assert gradual.curves(at(model))["sparsity"] == pytest.approx(0.6, abs=1e-3)


def test_a_mask_of_an_earlier_stage_is_kept_until_the_later_method_ranks_it_anew(tiny, context, method):
    model = cut(method, tiny("bert"), context("bert"))
    lock(model)
    again = replace(method, sparsity=0.75).prepare(model, context("bert"))
    module = modules_of(again)[0]
    assert float(attached(module, Mask).mask.float().mean()) == 0.5
    replace(method, sparsity=0.75).step(at(again, 1.0))
    assert float(attached(module, Mask).mask.float().mean()) == 0.25

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from compress_exp.config.checks import FieldError, UserError
from compress_exp.experiment.build import apply_stage, run_stage
from compress_exp.methods.parametrized import Mask, attached, bake, lock, mark_masked
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.prune.n_m import NMPruning, n_m_mask
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import input_widths, is_conv1d
from tests.conftest import ARCHITECTURES
from tests.experiments import planned
from tests.moments import at

FAMILIES = tuple(ARCHITECTURES)


@pytest.fixture
def method(no_budget):
    return NMPruning(name="prune/n_m", train=no_budget)


def groups_of(module, m):
    weight = module.weight.T if is_conv1d(module) else module.weight
    return weight.detach().reshape(-1, m)


def test_the_largest_of_each_group_stay_ties_by_index():
    scores = torch.tensor([[4.0, 1, 3, 2, 5, 5, 5, 5], [0, 0, 1, 0, 9, 8, 7, 6]])
    expected = torch.tensor([[1, 0, 1, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    assert torch.equal(n_m_mask(scores, torch.ones_like(expected), 2, 4), expected)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4)])
def test_magnitude_keeps_the_share_of_the_energy_it_must_and_twice_is_once(n, m):
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    everything = torch.ones_like(weight, dtype=torch.bool)
    mask = n_m_mask(weight.abs(), everything, n, m)
    energy = weight.square().view(-1, m)
    assert bool(((energy * mask.view(-1, m)).sum(1) >= n / m * energy.sum(1)).all())
    # The best of all choices of n of m: compared with every other one.
    best = torch.stack([energy[:, list(c)].sum(1) for c in combinations(range(m), n)]).amax(0)
    torch.testing.assert_close((energy * mask.view(-1, m)).sum(1), best)
    assert torch.equal(n_m_mask((weight * mask).abs(), mask, n, m), mask)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_group_along_the_inputs_of_every_family_has_exactly_n_left(model_type, criterion, tiny, context, method):
    for n, m in ((2, 4), (4, 8)):
        pruning = replace(method, n=n, m=m, criterion=criterion)
        model = pruning.prepare(tiny(model_type), context(model_type))
        chosen = targets(model, context(model_type).family, Select())
        for target in chosen:
            assert bool(((groups_of(target.modules[0], m) != 0).sum(1) == n).all()), target.names
        assert pruning.curves(at(model))["sparsity"] == 0.5


def test_by_magnitude_it_asks_for_no_data(tiny, context, method):
    def refuse(count):
        raise AssertionError

    model = method.prepare(tiny("bert"), replace(context("bert"), calibration=refuse))
    assert method.curves(at(model))["sparsity"] == 0.5


def test_wanda_and_magnitude_leave_kept_weights_alone_and_choose_differently(tiny, context, method):
    dense, masks = tiny("bert"), []
    for criterion in ("magnitude", "wanda"):
        model = replace(method, criterion=criterion).prepare(tiny("bert"), context("bert"))
        query = model.bert.encoder.layer[0].attention.self.query
        mask = attached(query, Mask).mask
        assert torch.equal(query.weight[mask], dense.bert.encoder.layer[0].attention.self.query.weight[mask])
        masks.append(mask)
    assert not torch.equal(*masks)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_n_equal_to_m_changes_no_bit(criterion, tiny, context, method):
    plain = tiny("bert")
    model = replace(method, n=4, criterion=criterion).prepare(tiny("bert"), context("bert"))
    bake(model)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_after_another_pruning_at_most_n_are_left_and_none_comes_back(criterion, tiny, context, method, no_budget):
    first = MagnitudePruning(name="prune/magnitude", train=no_budget, sparsity=0.4)
    model = first.prepare(tiny("gpt2"), context("gpt2"))
    first.step(at(model, 1.0))
    mark_masked(model)
    bake(model)
    lock(model)
    zeros = {name: tensor == 0 for name, tensor in model.state_dict().items()}
    model = replace(method, criterion=criterion).prepare(model, context("gpt2"))
    for name, module in model.named_modules():
        if mask := attached(module, Mask):
            earlier = zeros[f"{name}.parametrizations.weight.original"]
            assert bool(((groups_of(module, 4) != 0).sum(1) <= 2).all())
            assert not bool((mask.mask & earlier).any())


def test_widths_that_the_groups_do_not_divide_are_refused_in_the_plan(data):
    odd = "model.architecture.intermediate_size=60"
    with pytest.raises(UserError, match=r"^method.prune.m: the 60 inputs of ffn_out are no multiple of 8"):
        planned("bert", data, "method=prune/n_m", "method.prune.n=4", "method.prune.m=8", odd)
    planned("bert", data, "method=prune/n_m", "method.prune.n=2", "method.prune.m=4", odd)
    leave = "method.prune.select.exclude=['*.output.dense']"
    planned("bert", data, "method=prune/n_m", "method.prune.n=4", "method.prune.m=8", odd, leave)


def test_widths_that_only_the_model_tells_are_refused_at_prepare(tiny, context, method):
    with pytest.raises(FieldError, match="the 32 inputs of .* are no multiple of 64") as caught:
        replace(method, m=64).prepare(tiny("bert"), context("bert"))
    assert caught.value.name == "m"


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_configuration_tells_the_widths_that_the_model_has(model_type, tiny, context):
    model, family = tiny(model_type), context(model_type).family
    told = input_widths(model.config, family)
    for target in targets(model, family, Select()):
        module = target.modules[0]
        assert module.weight.shape[0 if is_conv1d(module) else 1] in told[target.role]


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"m": 3}, "m"), ({"n": 5}, "n"), ({"criterion": "x"}, "criterion"), ({"sparsity": 0.5}, "sparsity")],
)
def test_values_out_of_range_are_refused(settings, field, no_budget):
    with pytest.raises(FieldError) as caught:
        NMPruning(name="prune/n_m", train=no_budget, **settings)
    assert caught.value.name == field


def test_after_heads_and_neurons_went_only_the_model_tells_the_widths(data, dense, tmp_path):
    more = "+method@method.prune2=prune/n_m"
    plan = planned("bert", data, "method=prune/structured", more)
    assert plan.facts.widths == {}
    base, places = dense(plan), [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
    run_stage(plan, 0, base, base, places[0])
    model = apply_stage(plan, 1, places[0], base, places[1]).model
    chosen = targets(model, plan.facts.family, Select())
    assert all(bool(((groups_of(target.modules[0], 4) != 0).sum(1) <= 2).all()) for target in chosen)

"""L1 and group lasso: the proximal steps against their definition as a minimum."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from compress_exp.layers.surgery import pruned_modules
from compress_exp.methods.parametrized import bake, mark_masked, owned
from compress_exp.methods.prune.group_lasso import GroupLassoPruning, group_soft_threshold
from compress_exp.methods.prune.l1 import L1Pruning, Proximal, choose_strength, soft_threshold
from compress_exp.methods.rate import rate_factor
from tests.moments import at


def objective(w, v, amount, axis):
    groups = w.norm(dim=1 - axis).sum() * math.sqrt(w.shape[1 - axis]) if axis is not None else w.abs().sum()
    return 0.5 * (w - v).square().sum() + amount * groups


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_step_minimises_the_distance_plus_the_penalty(axis):
    torch.manual_seed(0)
    v = torch.randn(6, 9, dtype=torch.float64)
    amount = 0.3
    best = soft_threshold(v, amount) if axis is None else group_soft_threshold(v, amount, axis)
    least = objective(best, v, amount, axis)
    for scale in (1e-1, 1e-2, 1e-3):
        for _ in range(50):
            assert objective(best + scale * torch.randn_like(v), v, amount, axis) > least
    for index in range(v.shape[0]):
        assert float(objective(best.index_fill(0, torch.tensor([index]), 0.0), v, amount, axis)) >= float(least)


def test_no_penalty_changes_nothing_and_a_large_one_everything():
    weight = torch.randn(4, 5)
    assert torch.equal(soft_threshold(weight, 0.0), weight)
    assert torch.equal(group_soft_threshold(weight, 0.0, 0), weight)
    assert not bool(soft_threshold(weight, float(weight.abs().max())).any())
    rows = float(weight.norm(dim=1).max()) / math.sqrt(5)
    assert not bool(group_soft_threshold(weight, rows * 1.0001, 0).any())


def test_zero_solves_least_squares_from_the_largest_gradient_at_zero_on():
    torch.manual_seed(0)
    inputs, outputs = torch.randn(40, 6), torch.randn(40, 1)

    def solve(strength):
        linear = nn.Linear(6, 1, bias=False)
        optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
        for _ in range(400):
            optimizer.zero_grad()
            (0.5 * (linear(inputs) - outputs).square().mean()).backward()
            optimizer.step()
            linear.weight.data.copy_(soft_threshold(linear.weight.data, 0.1 * strength))
        return linear.weight

    limit = float((inputs.T @ outputs / 40).abs().max())
    assert not bool(solve(limit * 1.01).any())
    assert int(torch.count_nonzero(solve(limit * 0.9))) == 1


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_l1_leaves_zeros_that_stay_and_are_told(model_type, tiny, context, budget):
    method = L1Pruning(name="prune/l1", train=budget, strength=1.0)
    model = method.prepare(tiny(model_type), context(model_type))
    with torch.no_grad():
        method.after_step(at(model, rate=0.01))
        method.step(at(model, 1.0))
    share = method.curves(at(model))["sparsity"]
    mark_masked(model)
    bake(model)
    weights = [module.weight for _, module in pruned_modules(model)]
    assert share == sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    before = dict(tiny(model_type).named_modules())
    dense = torch.cat([before[name].weight.flatten() for name, _ in pruned_modules(model)])
    assert share == float((dense.abs() <= 0.01).float().mean())


@pytest.mark.parametrize("kind", [L1Pruning, GroupLassoPruning])
def test_the_chosen_strength_zeroes_half_where_no_gradient_holds_against_it(kind, tiny, context, budget):
    steps = 20
    assert choose_strength(torch.tensor([0.1, 0.2, 0.3]), budget, 10**5) == 0.2
    method = kind(name="prune/x", train=budget)
    model = method.prepare(tiny("bert"), replace(context("bert"), steps=steps))
    with torch.no_grad():
        for step in range(steps):
            method.after_step(at(model, rate=budget.learning_rate * rate_factor(step, steps, budget.warmup)))
    # Of 32 rows the median one may be left at a rounding error.
    assert method.curves(at(model))["sparsity"] == pytest.approx(0.5, abs=0.035)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("group", ["row", "column"])
def test_groups_go_as_a_whole_also_when_trimmed(model_type, group, tiny, context, budget):
    method = GroupLassoPruning(
        name="prune/group_lasso", train=budget, strength=1.0, group=group, trim=True, sparsity=0.5, scope="tensor"
    )
    model = method.prepare(tiny(model_type), context(model_type))
    with torch.no_grad():
        for module, _ in owned(model, method.name, Proximal):
            weight = module.parametrizations.weight.original
            outputs = weight.T if model_type == "gpt2" else weight
            (outputs if group == "row" else outputs.T)[3].mul_(1e-3)
        method.after_step(at(model, rate=0.001))
        for module, _ in owned(model, method.name, Proximal):
            outputs = module.weight.T if model_type == "gpt2" else module.weight
            groups = outputs if group == "row" else outputs.T
            assert int((groups == 0).all(1).sum()) == 1 and bool((groups[3] == 0).all())
        method.finish(at(model))
    for module, _ in owned(model, method.name, Proximal):
        outputs = module.weight.T if model_type == "gpt2" else module.weight
        groups = outputs if group == "row" else outputs.T
        empty = (groups == 0).all(1)
        assert bool((empty | (groups != 0).all(1)).all())
        assert int(empty.sum()) == round(0.5 * len(empty))

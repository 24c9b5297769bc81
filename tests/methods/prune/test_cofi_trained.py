"""CoFi after a real training: what is left, and what it was expected to be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress_exp.experiment.build import apply_stage, publish, run_stage
from compress_exp.formats.artifact import load
from compress_exp.layers.heads import attentions
from compress_exp.layers.neurons import feed_forwards
from compress_exp.layers.surgery import is_pruned
from compress_exp.methods.parametrized import owned
from compress_exp.methods.prune.cofi import CofiPruning, UnitGate
from compress_exp.models.families.base import family_of
from tests.experiments import planned
from tests.moments import at
from tests.slimming import build

LAYERS, WIDTH, INNER, HEADS = 4, 32, 64, 2
NEURON = 2 * WIDTH + 1
ATTENTION = 4 * WIDTH * WIDTH + 3 * WIDTH  # the bias of the projection out of it stays
PRUNABLE = LAYERS * (ATTENTION + INNER * NEURON)


def parameters_of(model):
    """Those that no pruning made zero."""
    count = 0
    seen = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                count += int((parameter != 0).sum()) if name == "weight" and is_pruned(module) else parameter.numel()
    return count


def widths(model, family):
    heads, neurons = attentions(model, family_of(family)), feed_forwards(model, family_of(family))
    return [part.count for part in heads], [part.count for part in neurons]


def closed(model, method):
    """Let training have closed some gates for good, at least a head and eight neurons of each part staying open."""
    gone = 0
    for index, (_, gate) in enumerate(owned(model, method.name, UnitGate)):
        gate.whole.data.fill_(20.0)
        gate.log_alpha.data.fill_(20.0)
        heads = len(gate.log_alpha) == HEADS
        count = index % 4 // 2 if heads else 8 * (1 + index % 7)
        gate.log_alpha.data[torch.randperm(len(gate.log_alpha))[:count]] = -20.0
        gone += count * (ATTENTION // HEADS if heads else NEURON)
    return gone


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_with_gates_that_are_open_or_closed_the_expected_share_is_what_disappears(model_type, context, budget):
    torch.manual_seed(0)
    method = CofiPruning(name="prune/cofi", train=budget, sparsity=0.3)
    model = method.prepare(build(model_type), context(model_type))
    gone = closed(model, method)
    expected = method.expected(model).item()
    assert expected == pytest.approx(gone / PRUNABLE, abs=1e-6)
    before = {id(gate): gate.fixed() > 0 for _, gate in owned(model, method.name, UnitGate)}
    with torch.no_grad():
        replace(method, sparsity=expected).finish(at(model))
        assert all(torch.equal(gate.keep, before[id(gate)]) for _, gate in owned(model, method.name, UnitGate))
        smaller = method.convert(at(model))
    lost = sum(p.numel() for p in build(model_type).parameters()) - sum(p.numel() for p in smaller.parameters())
    assert lost == gone


def test_a_closed_part_closes_all_its_units_in_expectation(context, budget):
    method = CofiPruning(name="prune/cofi", train=budget, sparsity=0.3)
    model = method.prepare(build("bert"), context("bert"))
    for index, (_, gate) in enumerate(owned(model, method.name, UnitGate)):
        gate.log_alpha.data.fill_(20.0)
        gate.whole.data.fill_(-20.0 if index in (0, 5) else 20.0)
    sizes = [INNER * NEURON if len(g.log_alpha) > HEADS else ATTENTION for _, g in owned(model, method.name, UnitGate)]
    assert method.expected(model).item() == pytest.approx((sizes[0] + sizes[5]) / PRUNABLE, abs=1e-6)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("sparsity", [0.37, 0.5])
def test_a_training_lands_on_the_amount_within_half_a_unit(family, sparsity, data, dense, tmp_path):
    settings = ("method.prune.train.max_steps=12", f"method.prune.sparsity={sparsity}")
    plan = planned(family, data, "method=prune/cofi", *settings)
    assert plan.stages[0].methods[0].end == 0.5
    base = dense(plan)
    built = apply_stage(plan, 0, base, base, tmp_path)
    assert built.steps == 12
    publish(built, tmp_path)
    again = load(tmp_path)
    gone = parameters_of(load(base)) - parameters_of(again)
    heads, neurons = widths(again, family)
    assert all(count % 8 == 0 and count > 0 for count in neurons) and all(count > 0 for count in heads)
    removed = (LAYERS * HEADS - sum(heads)) * ATTENTION // HEADS + (LAYERS * INNER - sum(neurons)) * NEURON
    assert gone == removed
    assert abs(gone - sparsity * PRUNABLE) <= max(ATTENTION // HEADS, 8 * NEURON) / 2
    assert built.history[0]["sparsity"] < built.history[-1]["sparsity"] < 1


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_after_magnitude_pruning_it_lands_within_one_heads_nonzero_parameters(family, data, dense, store, tmp_path):
    stages = ("method=prune/magnitude", "+method@method.prune2=prune/cofi", "method.prune2.sparsity=null")
    plan = planned(family, data, *stages, "method.prune2.parameters=20000")
    base = dense(plan)
    parent = store.get(plan.stage_recipe(0), lambda place, check: run_stage(plan, 0, base, base, place), "magnitude")
    left = parameters_of(load(parent))
    wanted = round(left - 0.4 * PRUNABLE / 2)
    plan = planned(family, data, *stages, f"method.prune2.parameters={wanted}", "method.prune2.train.max_steps=6")
    built = apply_stage(plan, 1, parent, base, tmp_path)
    publish(built, tmp_path)
    again = load(tmp_path)
    head = max(float(part.costs()[:, 1].max()) for part in attentions(load(parent), family_of(family)))
    assert ATTENTION / HEADS / 2 < head < ATTENTION / HEADS
    assert abs(parameters_of(again) - wanted) <= head / 2
    assert all(count % 8 == 0 for count in widths(again, family)[1])


@pytest.mark.parametrize("variant", ["l0", "cofi"])
def test_a_large_seed_is_a_seed_like_any_other(variant, data, dense, tmp_path):
    base = dense(planned("bert", data, f"method=prune/{variant}"))
    weights = []
    for name, seed in (("a", 900_000_000), ("b", 900_000_000), ("c", 900_000_001)):
        directory = tmp_path / name
        directory.mkdir()
        plan = planned("bert", data, f"method=prune/{variant}", f"seed={seed}")
        built = apply_stage(plan, 0, base, base, directory)
        weights.append(torch.cat([parameter.flatten() for parameter in built.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert weights[0].shape != weights[2].shape or not torch.equal(weights[0], weights[2])

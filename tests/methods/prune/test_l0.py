from __future__ import annotations

import csv
import math
from dataclasses import replace

import pytest
import torch

from compress_exp.experiment.build import apply_stage, publish
from compress_exp.formats.artifact import load
from compress_exp.layers.surgery import pruned_modules
from compress_exp.methods.parametrized import bake, owned
from compress_exp.methods.prune.l0 import HardConcrete, L0Pruning, open_probability, sampled, stretched
from tests.experiments import planned
from tests.moments import at


@pytest.fixture
def method(budget):
    return L0Pruning(name="prune/l0", train=budget, trim=True, sparsity=0.5, scope="tensor")


def test_the_probability_of_an_open_gate_is_the_share_of_draws():
    generator = torch.Generator().manual_seed(0)
    for log_alpha in (-3.0, 0.0, 2.197):
        draws = 200_000
        uniform = torch.rand(draws, generator=generator)
        share = float((sampled(torch.full((draws,), log_alpha), uniform) != 0).float().mean())
        chance = float(open_probability(torch.tensor(log_alpha)))
        assert abs(share - chance) < 3 * math.sqrt(chance * (1 - chance) / draws)


def test_gates_reach_both_ends_exactly():
    assert stretched(torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0])).tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert float(stretched(torch.tensor(-10.0).sigmoid())) == 0.0


def test_every_evaluation_of_a_step_sees_the_same_draw_and_the_next_step_another(tiny, context, method):
    model = method.prepare(tiny("bert"), context("bert")).train()
    module, gate = owned(model, method.name, HardConcrete)[0]
    first = module.weight.detach().clone()
    assert torch.equal(module.weight, first)
    method.after_step(at(model, rate=0.1))
    assert not torch.equal(module.weight, first)
    others = [other.z() for _, other in owned(model, method.name, HardConcrete)[1:] if other.mask.shape == (32, 32)]
    assert not any(torch.equal(gate.z(), other) for other in others)


def test_the_penalty_is_the_expected_number_of_open_gates_over_the_weights_of_bert_base(tiny, context, method):
    model = method.prepare(tiny("gpt2"), context("gpt2"))
    chance = 1 / (1 + math.exp(-(2.197 - 2 / 3 * math.log(0.1 / 1.1))))
    penalty = method.penalty(at(model, 1.0))
    assert penalty.requires_grad and penalty.item() == pytest.approx(125 * chance * 32_768 / 84_934_656, rel=1e-5)


def test_what_is_exported_is_the_gate_outside_training_after_trimming(tiny, context, method):
    model = method.prepare(tiny("bert"), context("bert"))
    before = {name: p.detach().clone() for name, p in tiny("bert").named_parameters()}
    name = "bert.encoder.layer.0.attention.self.query"
    for _, gate in owned(model, method.name, HardConcrete):
        gate.log_alpha.data.copy_(torch.randn_like(gate.log_alpha))
    log_alpha = model.get_submodule(name).parametrizations.weight[0].log_alpha.detach().clone()
    method.finish(at(model))
    assert method.curves(at(model))["sparsity"] == pytest.approx(0.5, abs=1e-3)
    model.eval()
    bake(model)
    weight = model.get_submodule(name).weight
    z = (torch.sigmoid(log_alpha) * 1.2 - 0.1).clamp(0, 1)
    keep = torch.zeros_like(z, dtype=torch.bool).flatten()
    keep[log_alpha.flatten().argsort(descending=True)[: keep.numel() // 2]] = True
    expected = before[f"{name}.weight"] * z * keep.view_as(z)
    torch.testing.assert_close(weight, expected, rtol=1e-6, atol=0)


def test_without_trimming_it_reports_what_closed(tiny, context, method):
    free = replace(method, trim=False, sparsity=None)
    model = free.prepare(tiny("bert"), context("bert"))
    gates = [gate for _, gate in owned(model, free.name, HardConcrete)]
    assert free.curves(at(model))["sparsity"] == 0.0
    for gate in gates:
        gate.log_alpha.data[:, ::4] = -5.0
    assert free.curves(at(model))["sparsity"] == pytest.approx(0.25)


@pytest.mark.parametrize(("family", "scope"), [("bert", "tensor"), ("gpt2", "row")])
def test_the_last_row_of_the_curves_tells_the_zeros_of_the_artifact(family, scope, data, dense, tmp_path):
    trim = ("method.prune.trim=true", "method.prune.sparsity=0.55", f"method.prune.scope={scope}")
    plan = planned(family, data, "method=prune/l0", *trim, "method.prune.train.max_steps=12")
    base = dense(plan)
    built = apply_stage(plan, 0, base, base, tmp_path)
    publish(built, tmp_path)
    weights = [module.weight for _, module in pruned_modules(load(tmp_path))]
    zeros, count = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    with (tmp_path / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert count == 4 * (4 * 32 * 32 + 2 * 32 * 64) and [row["step"] for row in rows] == ["0", "10", "11"]
    assert zeros == sum(round(0.55 * weight.numel()) for weight in weights)
    assert float(rows[-1]["sparsity"]) == pytest.approx(zeros / count, rel=1e-6)
    assert float(rows[0]["sparsity"]) == 0.0

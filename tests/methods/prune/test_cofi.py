from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compress_exp.config.checks import FieldError
from compress_exp.methods.parametrized import Gate, attach, bake, owned
from compress_exp.methods.prune.cofi import MULTIPLIERS, CofiPruning, UnitGate
from compress_exp.methods.quant.fake import FakeQuantWeight
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import family_of, output_axis
from tests.forward import forward_logits
from tests.moments import at
from tests.slimming import FAMILIES, build, family_name


@pytest.fixture
def method(budget):
    return CofiPruning(name="prune/cofi", train=budget, sparsity=0.5)


def learned(method, model):
    """Gates as a training might leave them."""
    generator = torch.Generator().manual_seed(4)
    for _, gate in owned(model, method.name, UnitGate):
        gate.log_alpha.data.copy_(3 * torch.randn(gate.log_alpha.shape, generator=generator))
        gate.whole.data.copy_(2 + torch.randn((), generator=generator))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_smaller_model_says_what_the_gated_one_said(name, context, method, batch):
    model = method.prepare(build(name), context(family_name(name)))
    learned(method, model)
    before = sum(p.numel() for p in build(name).parameters())
    with torch.no_grad():
        method.finish(at(model))
        gated = forward_logits(model.eval(), batch)
        scaled = [gate.fixed()[gate.keep] for _, gate in owned(model, method.name, UnitGate)]
        assert any(bool(((gates > 0) & (gates < 1)).any()) for gates in scaled)
        smaller = method.convert(at(model))
        torch.testing.assert_close(forward_logits(smaller, batch), gated, rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in smaller.parameters()) < before
    assert not [name for name, _ in smaller.named_modules() if MULTIPLIERS in name or "parametrizations" in name]


@pytest.mark.parametrize("name", FAMILIES)
def test_fake_quantizers_outlive_the_cut_and_round_the_same_weights(name, context, method, batch):
    family = family_of(family_name(name))
    model = method.prepare(build(name), context(family_name(name)))
    for target in targets(model, family, Select()):
        attach(target.modules, FakeQuantWeight(output_axis(target.modules[0]), 127))
    learned(method, model)
    with torch.no_grad():
        method.finish(at(model))
        rounded = forward_logits(model.eval(), batch)
        smaller = method.convert(at(model))
        torch.testing.assert_close(forward_logits(smaller, batch), rounded, rtol=1e-4, atol=1e-4)
        bake(smaller, Gate)
        assert not torch.allclose(forward_logits(smaller, batch), rounded, rtol=1e-4, atol=1e-4)


def test_the_expected_share_is_the_chance_of_closed_gates_weighed_by_parameters(context, method):
    model = method.prepare(build("bert"), context("bert"))
    shift = 2 / 3 * math.log(0.1 / 1.1)
    left = whole = 0.0
    for _, gate in owned(model, method.name, UnitGate):
        gate.log_alpha.data.copy_(torch.linspace(-3, 3, len(gate.log_alpha)))
        for value, cost in zip(gate.log_alpha.tolist(), gate.costs[:, 0].tolist(), strict=True):
            left += cost / (1 + math.exp(shift - value)) / (1 + math.exp(shift - gate.whole.item()))
            whole += cost
    assert method.expected(model).item() == pytest.approx(1 - left / whole, rel=1e-5)
    heads, width, inner = 4 * 2, 32, 64
    assert whole == 4 * (4 * width * width + 3 * width) + 4 * inner * (2 * width + 1)
    assert heads == sum(len(g.log_alpha) for _, g in owned(model, method.name, UnitGate) if len(g.log_alpha) == 2)


def test_multipliers_ascend_until_the_target_is_met(context, method):
    model = method.prepare(build("bert"), context("bert")).train()
    groups = method.parameter_groups(at(model))
    gates = {id(p) for p in groups[0]["params"]}
    groups.append({"params": [p for p in model.parameters() if id(p) not in gates and p.dim()], "lr": 1e-4})
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    rising = []
    for step in range(300):
        ids = torch.randint(5, 300, (4, 9))
        loss = nn.functional.cross_entropy(model(input_ids=ids).logits, torch.tensor([0, 1, 0, 1]))
        (loss + method.penalty(at(model, (step + 1) / 300))).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            method.after_step(at(model, rate=1e-4))
        rising.append(method.curves(at(model))["sparsity"])
    assert rising[0] < 0.05
    assert rising[-1] == pytest.approx(0.5, abs=0.05)
    assert model.get_submodule(MULTIPLIERS).square.item() > 0


def test_exactly_the_amount_goes_and_every_part_keeps_something(context, budget):
    whole = sum(p.numel() for p in build("t5").parameters())
    method = CofiPruning(name="prune/cofi", train=budget, parameters=round(0.9 * whole))
    model = method.prepare(build("t5"), context("t5"))
    learned(method, model)
    with torch.no_grad():
        method.finish(at(model))
        smaller = method.convert(at(model))
    unit = 3 * 16 * 32 + 16 * 32
    assert sum(p.numel() for p in smaller.parameters()) == pytest.approx(0.9 * whole, abs=unit)


def test_what_cannot_be_is_refused(budget, no_budget, context):
    with pytest.raises(FieldError, match="gates are learned"):
        CofiPruning(name="prune/cofi", train=no_budget, sparsity=0.5)
    with pytest.raises(FieldError, match="parameters: 10 cannot be reached"):
        CofiPruning(name="prune/cofi", train=budget, parameters=10).prepare(build("bert"), context("bert"))

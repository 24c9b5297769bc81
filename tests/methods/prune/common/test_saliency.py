"""Scores from gradients, against autograd on the whole loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from compress_exp.methods.parametrized import Mask, attached
from compress_exp.methods.prune.common.saliency import mean_over_batches
from compress_exp.methods.prune.gradient import GradientPruning
from compress_exp.methods.prune.snip import SnipPruning
from compress_exp.methods.prune.taylor import TaylorPruning
from compress_exp.methods.select import Select, targets
from compress_exp.tasks.base import IGNORED
from tests.experiments import planned
from tests.moments import at

QUERY = "bert.encoder.layer.0.attention.self.query"


@pytest.fixture
def place(context, data):
    """A context with a real task and two different batches."""
    generator = torch.Generator().manual_seed(3)
    batches = [
        {"input_ids": torch.randint(5, 300, (4, 9), generator=generator), "labels": torch.tensor([0, 1, 0, 1])}
        for _ in range(2)
    ]
    for batch in batches:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return replace(context("bert"), task=planned("bert", data).task, calibration=lambda count: batches[:count])


def losses(model, place):
    for batch in place.calibration(2):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        yield nn.functional.cross_entropy(model(**inputs).logits, batch["labels"])


def scores(method, model, place):
    chosen = targets(model, place.family, Select())
    found = method.fixed_scores(model, chosen, place)
    return {target.names[0]: score for target, score in zip(chosen, found, strict=True)}


def test_snip_is_the_derivative_with_respect_to_a_factor_on_each_weight(tiny, place, budget):
    model = tiny("bert")
    found = scores(SnipPruning(name="prune/snip", train=budget, sparsity=0.5, calibration=2), model, place)
    assert sum(float(score.sum()) for score in found.values()) == pytest.approx(1.0, abs=1e-5)
    factors = {name: torch.ones_like(score, requires_grad=True) for name, score in found.items()}
    weights = {f"{name}.weight": model.get_parameter(f"{name}.weight").detach() * c for name, c in factors.items()}
    total = 0.0
    for batch in place.calibration(2):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = torch.func.functional_call(model, weights, kwargs=inputs).logits
        total = total + nn.functional.cross_entropy(logits, batch["labels"]) / 2
    expected = torch.autograd.grad(total, list(factors.values()))
    norm = sum(float(gradient.abs().sum()) for gradient in expected)
    for score, gradient in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(score, gradient.abs() / norm, rtol=1e-4, atol=1e-9)


def test_gradient_and_taylor_average_over_batches_after_taking_magnitudes(tiny, place, budget):
    model = tiny("bert")
    weight = model.get_parameter(f"{QUERY}.weight")
    each = [torch.autograd.grad(loss, weight)[0] for loss in losses(model, place)]
    gradient = scores(GradientPruning(name="prune/gradient", train=budget, sparsity=0.5), model, place)[QUERY]
    taylor = scores(TaylorPruning(name="prune/taylor", train=budget, sparsity=0.5), model, place)[QUERY]
    torch.testing.assert_close(gradient, (each[0].abs() + each[1].abs()) / 2, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(taylor, ((each[0] * weight) ** 2 + (each[1] * weight) ** 2) / 2, rtol=1e-4, atol=1e-10)
    assert not torch.allclose(gradient, ((each[0] + each[1]) / 2).abs(), rtol=1e-2)


def test_the_first_order_error_falls_with_the_square_of_the_weights(tiny, place, budget):
    model = tiny("bert").double()
    one = replace(place, calibration=lambda count: place.calibration(1))
    chosen = targets(model, one.family, Select())
    index = next(number for number, target in enumerate(chosen) if target.names[0] == QUERY)
    signed = mean_over_batches(model, chosen, one, 1, lambda gradient, weight: gradient * weight)[index]
    squares = TaylorPruning(name="prune/taylor", train=budget, sparsity=0.5).fixed_scores(model, chosen, one)[index]
    torch.testing.assert_close(squares, signed.square())
    with torch.no_grad():
        before = next(losses(model, place)).item()
    weight = model.get_parameter(f"{QUERY}.weight")
    row = weight.data[0].clone()

    def error(scale: float) -> float:
        """What the scores of a row miss of the loss's change when the row shrinks."""
        weight.data[0] = row * (1 - 40 * scale)
        with torch.no_grad():
            moved = next(losses(model, place)).item()
        return abs(moved - before + 40 * scale * float(signed[0].sum()))

    assert error(0.1) / error(0.05) == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("ignored", [0, 1])
def test_a_batch_without_positions_counts_as_one_that_says_nothing(ignored, tiny, data, context):
    generator = torch.Generator().manual_seed(3)
    batches = []
    for _ in range(2):
        ids = torch.randint(5, 300, (3, 9), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()})
    batches[ignored]["labels"].fill_(IGNORED)
    place = replace(context("gpt2"), task=planned("gpt2", data).task, calibration=lambda count: batches[:count])
    model = tiny("gpt2")
    chosen = targets(model, place.family, Select())
    alone = replace(place, calibration=lambda count: [batches[1 - ignored]])
    for statistic in (lambda g, w: g.abs(), lambda g, w: (g * w).square()):
        both, one = (mean_over_batches(model, chosen, here, 2, statistic) for here in (place, alone))
        for found, expected in zip(both, one, strict=True):
            assert bool(found.isfinite().all()) and bool(expected.any())
            torch.testing.assert_close(found, expected / 2, rtol=1e-6, atol=0)


def test_the_scores_ignore_dropout_and_leave_the_model_as_it_was(tiny, place):
    model = tiny("bert").train()
    chosen = targets(model, place.family, Select())
    first, second = (mean_over_batches(model, chosen, place, 2, lambda g, w: g) for _ in range(2))
    assert model.training and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("method", [GradientPruning, SnipPruning, TaylorPruning])
def test_the_smallest_scores_are_pruned_and_travel_with_the_model(method, tiny, place, budget):
    pruning = method(name="prune/x", train=budget, sparsity=0.6)
    expected = scores(pruning, tiny("bert"), place)[QUERY]
    model = pruning.prepare(tiny("bert"), place)
    pruning.step(at(model, 0.1))
    mask = attached(model.get_submodule(QUERY), Mask)
    assert torch.equal(mask.score, expected) and int((~mask.mask).sum()) == round(0.6 * mask.mask.numel())
    assert float(expected[mask.mask].min()) >= float(expected[~mask.mask].max())
    assert f"{QUERY}.parametrizations.weight.0.score" in model.state_dict()

"""Movement pruning step by step, against the equations in numpy: no autograd, no optimiser of PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from compress_exp.layers.weights import original
from compress_exp.methods.context import Work
from compress_exp.methods.parametrized import attach
from compress_exp.methods.prune.movement import MovementGate, MovementPruning
from tests.moments import bare_context

ROWS, WIDTH, TOKENS, RATE, SCORE_RATE = 6, 8, 20, 0.05, 2.0


def top(scores, kept):
    """1 for the `kept` largest scores."""
    mask = np.zeros(scores.size, dtype=bool)
    mask[np.argsort(scores.ravel(), kind="stable")[scores.size - kept :]] = True
    return mask.reshape(scores.shape)


def blocks_of(values, block):
    """The sum over each block."""
    rows, columns = block
    return values.reshape(ROWS // rows, rows, WIDTH // columns, columns).sum((1, 3))


@pytest.mark.parametrize("block", [(1, 1), (2, 4)])
@pytest.mark.parametrize("schedule", ["linear", "one_shot"])
def test_scores_gather_minus_the_rate_times_gradient_times_weight_and_the_top_of_them_stays(block, schedule, budget):
    generator = np.random.default_rng(0)
    inputs, wanted = generator.standard_normal((TOKENS, WIDTH)), generator.standard_normal((TOKENS, ROWS))
    linear = nn.Linear(WIDTH, ROWS, bias=False).double()
    linear.weight.data.copy_(torch.from_numpy(generator.standard_normal((ROWS, WIDTH))))
    weight = linear.weight.detach().numpy().copy()
    method = MovementPruning(name="prune/movement", train=budget, sparsity=0.5, schedule=schedule, block=block)
    gate = MovementGate(linear.weight, block)
    gate.owner = method.name
    model = nn.Sequential(linear)
    attach([linear], gate)
    (own,) = method.parameter_groups(Work(model, bare_context("bert")))
    assert own["params"] == [gate.scores] and own["lr"] == 0.01
    optimizer = torch.optim.SGD([{"params": own["params"], "lr": SCORE_RATE}, {"params": [original(linear)]}], lr=RATE)
    mask, scores, came_back, steps = np.ones((ROWS, WIDTH), dtype=bool), np.zeros(gate.scores.shape), 0, 10
    for step in range(steps):
        (torch.from_numpy(inputs) @ linear.weight.T - torch.from_numpy(wanted)).square().sum().div(
            2 * TOKENS
        ).backward()
        with torch.no_grad():
            method.step(Work(model, bare_context("bert"), (step + 1) / steps))
        optimizer.step()
        optimizer.zero_grad()
        gradient = (inputs @ (weight * mask).T - wanted).T @ inputs / TOKENS
        before = mask
        share = 0.5 * (step + 1) / steps if schedule == "linear" else 0.5
        groups = top(scores, scores.size - math.ceil(share * scores.size - 0.5))
        # The mask ranks the scores that it is given, before the step that moves them.
        mask = groups.repeat(block[0], 0).repeat(block[1], 1)
        scores = scores - SCORE_RATE * blocks_of(gradient * weight, block)
        weight = weight - RATE * gradient * before
        came_back += int((mask & ~before).sum())
        np.testing.assert_allclose(gate.scores.detach().numpy(), scores, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(original(linear).detach().numpy(), weight, rtol=1e-9, atol=1e-12)
        assert np.array_equal(gate.mask.numpy(), mask)
        np.testing.assert_allclose(linear.weight.detach().numpy(), weight * mask, rtol=1e-9, atol=1e-12)
    assert int(mask.sum()) == ROWS * WIDTH // 2
    assert came_back > 0

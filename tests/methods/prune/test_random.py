"""The control that every criterion has to beat."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from compress_exp.methods.parametrized import bake
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.prune.random import RandomPruning
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import family_of
from tests.moments import at


@pytest.fixture
def method(budget):
    return RandomPruning(name="prune/random", train=budget, sparsity=0.625)


def weights_of(model):
    family = family_of(model.config.model_type)
    return [target.modules[0].weight.detach() for target in targets(model, family, Select())]


def pruned(method, model, context, seed=0):
    method.step(at(method.prepare(model, replace(context, seed=seed)), 1.0))
    bake(model)
    return weights_of(model)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5"])
def test_it_keeps_as_many_as_magnitude_in_every_scope(model_type, tiny, context, method, budget):
    for scope in ("tensor", "row", "global"):
        counts = []
        for kind in (RandomPruning, MagnitudePruning):
            own = kind(name="prune/x", train=budget, sparsity=0.625, scope=scope)
            weights = pruned(own, tiny(model_type), context(model_type))
            counts.append([int((weight == 0).sum()) for weight in weights])
        assert sum(counts[0]) == sum(counts[1]) == round(0.625 * sum(weight.numel() for weight in weights))
        assert scope == "global" or counts[0] == counts[1]


def test_a_mask_comes_back_with_its_seed_and_is_another_with_another(tiny, context, method):
    first, again, other = (
        torch.cat([(weight == 0).flatten() for weight in pruned(method, tiny("bert"), context("bert"), seed)])
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    # Two independent draws agree on a weight with probability s² + (1 − s)².
    chance = 0.625**2 + 0.375**2
    assert float((first == other).float().mean()) == pytest.approx(chance, abs=4 * 0.5 / math.sqrt(len(first)))


def test_whatever_else_draws_random_numbers_does_not_change_the_mask(tiny, context, method):
    masks = []
    for noise in (0, 7):
        model = tiny("bert")
        torch.manual_seed(noise)
        masks.append([weight == 0 for weight in pruned(method, model, context("bert"))])
    assert all(torch.equal(one, other) for one, other in zip(*masks, strict=True))


def test_tensors_of_one_shape_get_masks_of_their_own(tiny, context, method):
    weights = [weight for weight in pruned(method, tiny("bert"), context("bert")) if weight.shape == (32, 32)]
    masks = {tuple((weight == 0).flatten().tolist()) for weight in weights}
    assert len(masks) == len(weights) == 16


def test_the_energy_that_goes_is_the_sparsity_and_magnitude_loses_less(tiny, context, method, budget):
    before = weights_of(tiny("bert"))
    energies = [weight.double().square() for weight in before]
    whole = float(sum(energy.sum() for energy in energies))

    def lost(own, seed=0):
        after = pruned(own, tiny("bert"), context("bert"), seed)
        return [float(energy[weight == 0].sum() / energy.sum()) for energy, weight in zip(energies, after, strict=True)]

    shares = torch.tensor([float(energy.sum()) / whole for energy in energies], dtype=torch.float64)
    draws = torch.tensor([lost(method, seed) for seed in range(20)], dtype=torch.float64)
    # The sum over k of n values drawn without replacement has variance k·(1 − k/n)·S².
    variance = sum(0.625 * 0.375 * energy.numel() * float(energy.var()) for energy in energies) / whole**2
    assert float((draws @ shares).mean()) == pytest.approx(0.625, abs=3 * math.sqrt(variance / 20))
    smallest = torch.tensor(lost(MagnitudePruning(name="prune/x", train=budget, sparsity=0.625)), dtype=torch.float64)
    assert bool((smallest < draws.min(0).values).all()) and float(smallest @ shares) < 0.625 / 2

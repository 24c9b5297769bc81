from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from compress_exp.layers.weights import original
from compress_exp.methods.hessian import Hessian, damped, inverse_factor
from compress_exp.methods.parametrized import Mask, attached, bake, lock, mark_masked
from compress_exp.methods.prune.common.ranking import ranked_masks
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.prune.n_m import n_of_columns
from compress_exp.methods.prune.sparsegpt import SparseGPTPruning, smallest_share, sparsify
from compress_exp.methods.prune.wanda import wanda_scores
from compress_exp.methods.select import Select, targets
from tests.conftest import ARCHITECTURES
from tests.moments import at

FAMILIES = tuple(ARCHITECTURES)


@pytest.fixture
def method(no_budget):
    return SparseGPTPruning(name="prune/sparsegpt", train=no_budget, sparsity=0.5)


def problem(seed, rows=12, width=300, tokens=800):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64) / math.sqrt(width)
    inputs = torch.randn(tokens, width, generator=generator, dtype=torch.float64) @ (mixing + torch.eye(width))
    return torch.randn(rows, width, generator=generator, dtype=torch.float64), inputs


def hessian_of(inputs):
    return 2 * inputs.T @ inputs / len(inputs)


def all_of(weight):
    return torch.ones_like(weight, dtype=torch.bool)


def by_the_paper(weight, inputs, sparsity=None, pattern=None, block=128):
    """Algorithm 1 of the paper in float64 (numpy): masks per block, or per m columns."""
    weight = weight.double().numpy().copy()
    hessian = 2 * (inputs.double().T @ inputs.double()).numpy() / len(inputs)
    hessian += 0.01 * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    rows, width = weight.shape
    mask, gone = np.ones_like(weight, dtype=bool), 0
    for start in range(0, width, block):
        end = min(start + block, width)
        errors = np.zeros((rows, end - start))
        for j in range(start, end):
            if pattern is None and j == start:
                saliency = (weight[:, start:end] / np.diag(upper)[start:end]) ** 2
                count = round(sparsity * rows * end) - gone
                gone += count
                chosen = np.argsort(saliency, axis=None, kind="stable")[:count]
                mask[:, start:end].reshape(-1)[:] = True
                piece = np.ones(saliency.size, dtype=bool)
                piece[chosen] = False
                mask[:, start:end] = piece.reshape(saliency.shape)
            if pattern is not None and (j - start) % pattern[1] == 0:
                n, m = pattern
                saliency = (weight[:, j : j + m] / np.diag(upper)[j : j + m]) ** 2
                order = np.argsort(saliency, axis=1, kind="stable")
                piece = np.ones((rows, m), dtype=bool)
                np.put_along_axis(piece, order[:, : m - n], False, axis=1)
                mask[:, j : j + m] = piece
            quantized = weight[:, j] * mask[:, j]
            error = (weight[:, j] - quantized) / upper[j, j]
            weight[:, j:end] -= np.outer(error, upper[j, j:end])
            errors[:, j - start] = error
        weight[:, end:] -= errors @ upper[start:end, end:]
    return torch.from_numpy(weight * mask), torch.from_numpy(mask)


def loss(weight, new, hessian):
    change = weight - new
    return float((change @ hessian * change).sum())


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_masks_and_weights_equal_a_float64_reading_of_the_paper(sparsity, seed):
    weight, inputs = problem(seed)
    statistic = Hessian(300, inputs.device)
    for piece in inputs.float().split(100):
        statistic.add(piece)
    new, mask, _ = sparsify(weight.float(), all_of(weight), statistic.matrix(), smallest_share(sparsity))
    expected, expected_mask = by_the_paper(weight.float(), inputs.float(), sparsity)
    assert new.dtype == torch.float32
    assert torch.equal(mask, expected_mask)
    assert float((new - expected).abs().max()) < 1e-5
    assert int((~mask).sum()) == round(sparsity * weight.numel())


@pytest.mark.parametrize("pattern", [(2, 4), (4, 8)])
def test_n_m_patterns_equal_a_float64_reading_of_the_paper(pattern):
    weight, inputs = problem(7, width=320)
    new, mask, _ = sparsify(weight, all_of(weight), hessian_of(inputs), n_of_columns(pattern[0]), pattern[1])
    expected, expected_mask = by_the_paper(weight, inputs, pattern=pattern)
    assert torch.equal(mask, expected_mask)
    assert bool((mask.reshape(-1, pattern[1]).sum(1) == pattern[0]).all())
    torch.testing.assert_close(new, expected, rtol=1e-9, atol=1e-12)


def test_the_errors_add_up_to_the_loss_of_the_damped_hessian():
    weight, inputs = problem(1)
    new, _, cost = sparsify(weight, all_of(weight), hessian_of(inputs), smallest_share(0.5))
    assert float(cost) == pytest.approx(loss(weight, new, damped(hessian_of(inputs))), rel=1e-12)


def test_the_factor_is_the_upper_cholesky_factor_of_the_inverse():
    _, inputs = problem(2)
    expected = torch.linalg.cholesky(torch.linalg.inv(damped(hessian_of(inputs))), upper=True)
    torch.testing.assert_close(inverse_factor(hessian_of(inputs)), expected, rtol=1e-9, atol=1e-12)


def test_with_uncorrelated_equal_inputs_it_is_magnitude_and_changes_nothing_kept():
    weight, _ = problem(3, width=128)
    new, mask, _ = sparsify(weight, all_of(weight), 3.0 * torch.eye(128, dtype=torch.float64), smallest_share(0.5))
    assert torch.equal(mask, ranked_masks([weight.abs()], [all_of(weight)], 0.5, "tensor")[0])
    assert torch.equal(new[mask], weight[mask])


def correlated(kind, generator, tokens=500, width=64):
    noise = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    if kind == "neighbours":
        distance = (torch.arange(width)[:, None] - torch.arange(width)).abs()
        return noise @ torch.linalg.cholesky(0.9 ** distance.double()).T
    count = 1 if kind == "one factor" else width // 4
    factors = torch.randn(tokens, count, generator=generator, dtype=torch.float64)
    return noise + factors @ torch.randn(count, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["neighbours", "one factor", "many factors"])
def test_its_error_is_below_that_of_wanda_and_magnitude_on_correlated_inputs(kind):
    ratios = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(32, 64, generator=generator, dtype=torch.float64)
        inputs = correlated(kind, generator)
        hessian = hessian_of(inputs)
        own = loss(weight, sparsify(weight, all_of(weight), hessian, smallest_share(0.5))[0], damped(hessian))
        masks = [
            ranked_masks([scores], [all_of(weight)], 0.5, scope)[0]
            for scores, scope in ((weight.abs(), "tensor"), (wanda_scores(weight, inputs.norm(dim=0)), "row"))
        ]
        others = [loss(weight, weight * mask, damped(hessian)) for mask in masks]
        assert own < min(others)
        ratios.append(own / others[0])
    assert sum(ratios) / len(ratios) < 0.65


def test_dead_inputs_lose_their_weights_and_the_rest_is_as_without_them():
    weight, inputs = problem(4, width=100)
    inputs[:, 10:20] = 0
    new, mask, cost = sparsify(weight, all_of(weight), hessian_of(inputs), smallest_share(0.5))
    assert not bool(mask[:, 10:20].any()) and bool(new.isfinite().all())
    assert int((~mask).sum()) == round(0.5 * weight.numel())
    assert bool((new[~mask] == 0).all())


def test_what_was_gone_stays_gone_and_counts():
    weight, inputs = problem(5)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    new, mask, _ = sparsify(weight, kept, hessian_of(inputs), smallest_share(0.5))
    assert not bool((mask & ~kept).any()) and bool((new[~mask] == 0).all())
    assert int((~mask).sum()) == round(0.5 * weight.numel())


def test_fewer_tokens_than_inputs_are_enough():
    weight, inputs = problem(6, tokens=20)
    statistic = Hessian(300, inputs.device)
    statistic.add(inputs)
    new, mask, _ = sparsify(weight.float(), all_of(weight), statistic.matrix(), smallest_share(0.5))
    assert bool(new.isfinite().all()) and int((~mask).sum()) == weight.numel() // 2


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_projection_of_every_family_is_pruned_and_rewritten_and_nothing_else(model_type, tiny, context, method):
    before = {name: tensor.clone() for name, tensor in tiny(model_type).state_dict().items()}
    model = method.prepare(tiny(model_type), context(model_type))
    modules = [target.modules[0] for target in targets(model, context(model_type).family, Select())]
    for module in modules:
        assert int((module.weight == 0).sum()) == round(0.5 * module.weight.numel())
    mark_masked(model)
    bake(model)
    pruned = {id(module.weight) for module in modules}
    for name, parameter in model.named_parameters():
        kept = parameter != 0
        assert torch.equal(parameter[kept], before[name][kept]) == (id(parameter) not in pruned), name


def test_zero_sparsity_changes_no_bit(tiny, context, method):
    plain, model = tiny("bert"), replace(method, sparsity=0.0).prepare(tiny("bert"), context("bert"))
    bake(model)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in plain.state_dict().items())


def test_it_goes_on_from_an_earlier_pruning(tiny, context, method, no_budget):
    first = MagnitudePruning(name="prune/magnitude", train=no_budget, sparsity=0.5)
    model = first.prepare(tiny("t5"), context("t5"))
    first.step(at(model, 1.0))
    mark_masked(model)
    bake(model)
    lock(model)
    zeros = {name: tensor == 0 for name, tensor in model.state_dict().items()}
    model = replace(method, sparsity=0.7).prepare(model, context("t5"))
    for name, module in model.named_modules():
        if mask := attached(module, Mask):
            assert not bool((mask.mask & zeros[f"{name}.parametrizations.weight.original"]).any())
            assert int((~mask.mask).sum()) == round(0.7 * original(module).numel())

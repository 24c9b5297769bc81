"""GPTQ against Optimal Brain Quantization written out, its grids by hand, and what it brings over rounding."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from compress_exp.config.checks import FieldError, UserError
from compress_exp.experiment.build import apply_stage
from compress_exp.formats.artifact import load
from compress_exp.layers.surgery import is_pruned
from compress_exp.layers.weight_only import Grouped, WeightOnlyEmbedding, WeightOnlyLinear, values
from compress_exp.layers.weights import original, weight_of
from compress_exp.methods.calibration import source_positions
from compress_exp.methods.hessian import Hessian, damped
from compress_exp.methods.parametrized import bake, lock, mark_masked
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.quant.gptq import GPTQ
from compress_exp.methods.quant.weight_only import FakeQuantGroups, WeightOnly, grid, nearest
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import is_conv1d
from compress_exp.models.forward import forward_outputs
from tests.conftest import ARCHITECTURES
from tests.experiments import planned
from tests.forward import forward_logits
from tests.moments import at

FAMILIES = tuple(ARCHITECTURES)
ORDERS = ("activation", "none")


@pytest.fixture
def method(no_budget):
    def make(**settings):
        return GPTQ(name="quant/gptq", train=no_budget, **{"group_size": 16, **settings})

    return make


def problem(seed, rows=8, width=40, tokens=400):
    """A matrix, and inputs that are correlated and of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64) / math.sqrt(width)
    inputs = torch.randn(tokens, width, generator=generator, dtype=torch.float64) @ (mixing + torch.eye(width))
    inputs *= torch.rand(width, generator=generator, dtype=torch.float64) + 0.5
    return torch.randn(rows, width, generator=generator, dtype=torch.float64), inputs


def hessian_of(inputs):
    return 2 * inputs.T @ inputs / len(inputs)


def all_of(weight):
    return torch.ones_like(weight, dtype=torch.bool)


def loss(change, hessian):
    return float((change @ hessian * change).sum())


def grid_of(group, bits, symmetric):
    """Scale (a float16, rounded up) and zero point of some weights, in numpy."""
    low, high = min(group.min(), 0.0), max(group.max(), 0.0)
    wanted = max(-low, high) / (2 ** (bits - 1) - 1) if symmetric else (high - low) / (2**bits - 1)
    scale = np.float16(wanted)
    if float(scale) < wanted:
        scale = np.nextafter(scale, np.float16(np.inf))
    scale = float(scale)
    return scale, 2.0 ** (bits - 1) if symmetric else np.round(-low / scale)


def optimal_brain_quantization(weight, inputs, kept, method):
    """One weight after the other, each row by itself: the inverse is downdated by what is decided (numpy, float64).

    H⁻¹ of the weights that are left is H⁻¹ − H⁻¹[:, j] H⁻¹[j, :] / H⁻¹[j, j], and what is left changes by
    −(w_j − q_j) / H⁻¹[j, j] · H⁻¹[:, j].
    """
    weight, kept = weight.numpy() * kept.numpy(), kept.numpy()
    hessian = 2 * (inputs.T @ inputs).numpy() / len(inputs)
    diagonal = np.diag(hessian)
    first = np.linalg.inv(hessian + method.damping * diagonal.mean() * np.eye(len(hessian)))
    turns = np.argsort(-diagonal, kind="stable") if method.order == "activation" else np.arange(len(hessian))
    result = np.zeros_like(weight)
    for number, row in enumerate(weight):
        inverse, left = first.copy(), row.copy()
        grids = {
            start: grid_of(row[start : start + method.group_size], method.bits, method.symmetric)
            for start in range(0, len(row), method.group_size)
        }
        for column in turns:
            start = column - column % method.group_size
            if method.order == "none" and column == start:
                here = slice(start, start + method.group_size)
                grids[start] = grid_of(left[here] * kept[number, here], method.bits, method.symmetric)
            scale, zero = grids[start]
            code = np.clip(np.round(left[column] / scale) + zero, 0, 2**method.bits - 1)
            result[number, column] = point = scale * (code - zero) if kept[number, column] else 0.0
            left -= (left[column] - point) / inverse[column, column] * inverse[:, column]
            inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return torch.from_numpy(result)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("settings", "dropped"),
    [
        ({"group_size": 64}, 0.0),  # 300 inputs: three blocks of 128, and a last group of 44
        ({"group_size": 16, "symmetric": True}, 0.0),
        ({"group_size": 256}, 0.6),  # groups of more than a block, and pruned weights
        ({"group_size": 32, "bits": 8, "damping": 0.1}, 0.3),
    ],
)
def test_it_is_optimal_brain_quantization_in_a_fixed_order(settings, dropped, order, method):
    weight, inputs = problem(1, rows=4, width=300, tokens=900)
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) >= dropped
    own = method(order=order, **settings)
    codes, scales, zeros = own.quantize(weight, kept, hessian_of(inputs))
    found = values(codes, scales, zeros, own.group_size).double()
    expected = optimal_brain_quantization(weight, inputs, kept, own)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert bool((found[~kept] == 0).all())


@pytest.mark.parametrize("order", ORDERS)
def test_its_error_is_below_that_of_rounding_on_correlated_inputs(order, method):
    ratios = []
    for seed in range(20):
        weight, inputs = problem(seed)
        rounded = values(*FakeQuantGroups(False, 4, 16, False).quantize(weight), 16)
        own = method(order=order)
        found = values(*own.quantize(weight, all_of(weight), hessian_of(inputs)), 16)
        ratios.append(float(((weight - found) @ inputs.T).norm() / ((weight - rounded) @ inputs.T).norm()) ** 2)
        assert loss(weight - found, damped(hessian_of(inputs))) < loss(weight - rounded, damped(hessian_of(inputs)))
    assert max(ratios) < 0.95 and sum(ratios) / len(ratios) < 0.75


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_with_uncorrelated_inputs_it_is_rounding_to_nearest(symmetric, order, method):
    weight, _ = problem(3)
    rounded = FakeQuantGroups(False, 4, 16, symmetric).quantize(weight)
    for hessian in (3.0 * torch.eye(40), torch.diag(torch.rand(40) + 0.1), torch.zeros(40, 40)):
        found = method(order=order, symmetric=symmetric).quantize(weight, all_of(weight), hessian)
        assert all(torch.equal(own, other) for own, other in zip(found, rounded, strict=True))


def test_the_grid_of_a_later_group_by_hand(method):
    # −0.5 … 1.0 gives s = 0.1 and z = 5; 0.26 becomes 0.3. Of the error −0.04 the input that goes with it takes
    # 0.5 / 1.01: 3.0 becomes 2.9802, and its group's s 0.19868 instead of 0.2. In the second row it is pruned, what it
    # takes goes no further, and the group's grid is that of the weight that is left: s = 0.003 / 15.
    weight = torch.tensor([[0.26, -0.5, 1.0, *[0.0] * 13, 3.0, *[0.0] * 15]]).repeat(2, 1)
    weight[1, 20] = 0.003
    kept = all_of(weight)
    kept[1, 16] = False
    hessian = torch.eye(32)
    hessian[0, 16] = hessian[16, 0] = 0.5
    for order, scale in (("none", 2.9802 / 15), ("activation", 0.2)):
        codes, scales, zeros = method(order=order).quantize(weight, kept, hessian)
        assert scales.tolist() == [
            [pytest.approx(0.1, rel=1e-3), pytest.approx(scale, rel=1e-3)],
            [pytest.approx(0.1, rel=1e-3), pytest.approx(0.0002, rel=1e-3)],
        ]
        assert zeros.tolist() == [[5, 0], [5, 0]]
        assert codes.tolist() == [
            [8, 0, 15, *[5] * 13, 15, *[0] * 15],
            [8, 0, 15, *[5] * 13, *[0] * 4, 15, *[0] * 11],
        ]


def test_the_largest_inputs_are_rounded_to_nearest_and_the_smallest_make_up_for_it(method):
    weight, inputs = problem(5, rows=64)
    inputs[:, 37] *= 30
    for order, exact in (("activation", 37), ("none", 0)):
        codes, scales, zeros = method(order=order).quantize(weight, all_of(weight), hessian_of(inputs))
        first = nearest(weight, *grid(weight, 4, 16, False), 4, 16)
        same = (codes == first).float().mean(0)
        assert float(same[exact]) == 1.0 and float(same.mean()) < 0.9


def test_inputs_that_are_always_zero_keep_their_nearest_points(method):
    weight, inputs = problem(4)
    inputs[:, 10:20] = 0
    codes, scales, zeros = method().quantize(weight, all_of(weight), hessian_of(inputs))
    assert torch.equal(codes[:, 10:20], nearest(weight, scales, zeros, 4, 16)[:, 10:20])
    alive = loss(weight - values(codes, scales, zeros, 16), hessian_of(inputs))
    assert alive < loss(weight - values(*FakeQuantGroups(False, 4, 16, False).quantize(weight), 16), hessian_of(inputs))


def test_fewer_tokens_than_inputs_are_enough_and_numbers_that_are_none_are_refused(method):
    weight, inputs = problem(6, width=300, tokens=20)
    statistic = Hessian(300, inputs.device)
    statistic.add(inputs)
    found = values(*method(group_size=128).quantize(weight.float(), all_of(weight), statistic.matrix()), 128)
    rounded = values(*FakeQuantGroups(False, 4, 128, False).quantize(weight), 128)
    assert loss(weight - found, hessian_of(inputs)) < 0.5 * loss(weight - rounded, hessian_of(inputs))
    statistic.add(torch.full((1, 300), torch.nan))
    with pytest.raises(ValueError, match="not finite"):
        method().quantize(weight.float(), all_of(weight), statistic.matrix())


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("order", ORDERS)
def test_every_projection_is_packed_and_computes_what_it_did_before(model_type, order, tiny, context, method, batch):
    own, before = method(order=order), tiny(model_type)
    model = own.prepare(tiny(model_type), context(model_type))
    names = {name for target in targets(model, context(model_type).family, Select()) for name in target.names}
    for name in names:
        module, old = model.get_submodule(name), before.get_submodule(name).weight.detach()
        assert torch.equal(weight_of(module), original(module)), name  # it lies on its grid
        assert bool((weight_of(module) != old).any()), name
        rows, found = (tensor.T if is_conv1d(module) else tensor for tensor in (old, weight_of(module).detach()))
        scales, _ = grid(rows, 4, 16, False)
        off = (rows - found).abs() / scales.float().repeat_interleave(16, 1)[:, : rows.shape[1]]
        assert 0.1 < float(off.mean()) < 1.0, name  # of a step; rounding to nearest: a quarter
    with torch.no_grad():
        expected = forward_logits(model, batch)
    model = own.convert(at(model))
    with torch.no_grad():
        assert torch.equal(forward_logits(model, batch), expected)
    assert {name for name, module in model.named_modules() if isinstance(module, Grouped)} == names
    assert all(isinstance(model.get_submodule(name), WeightOnlyLinear) for name in names)


def test_pruned_weights_stay_zero_and_the_others_make_up_for_them(tiny, context, method, no_budget):
    prune = MagnitudePruning(name="prune/magnitude", train=no_budget, sparsity=0.7)
    model = prune.prepare(tiny("gpt2"), context("gpt2"))
    prune.step(at(model))
    mark_masked(model)
    bake(model)
    zeros = {t.names[0]: t.modules[0].weight == 0 for t in targets(model, context("gpt2").family, Select())}
    lock(model)
    model = method().convert(at(method().prepare(model, context("gpt2"))))
    for name, gone in zeros.items():
        packed = model.get_submodule(name)
        assert is_pruned(packed) and bool((packed.dense().T[gone] == 0).all())
        assert float((packed.dense() == 0).float().mean()) < 0.85


@pytest.mark.parametrize("first", ["quant/gptq", "quant/weight_only"])
def test_tables_may_be_packed_before_or_after_it(first, tiny, context, method, no_budget, batch):
    table = WeightOnly(name="quant/weight_only", train=no_budget, group_size=16, select=Select(roles=("embedding",)))
    model = tiny("t5")
    for own in (method(), table) if first == "quant/gptq" else (table, method()):
        model = own.convert(at(own.prepare(model, context("t5"))))
    assert isinstance(model.get_input_embeddings(), WeightOnlyEmbedding)
    assert isinstance(model.decoder.block[1].layer[1].EncDecAttention.k, WeightOnlyLinear)
    with torch.no_grad():
        assert bool(forward_logits(model, batch).isfinite().all())


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_every_layer_of_a_trained_model_is_nearer_than_by_rounding(family, data, dense, tmp_path):
    plan = planned(family, data, "method=quant/gptq", "method.quant.group_size=16", "train.max_steps=40")
    base = dense(plan)
    built = apply_stage(plan, 0, base, base, tmp_path)
    before, seen = load(base), {}
    packed = {name: module for name, module in built.model.named_modules() if isinstance(module, Grouped)}
    for name, module in packed.items():
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0]))
    batches = built.context.calibration(16)
    with torch.no_grad():
        for batch in batches:
            forward_outputs(built.model, batch, ())
    ratios = {}
    for name, module in packed.items():
        # What comes before a layer is what it was when its inputs were looked at.
        inputs = torch.cat([x[source_positions(b)] for x, b in zip(seen[name], batches, strict=True)])
        plain = before.get_submodule(name)
        weight = plain.weight.detach().T if is_conv1d(plain) else plain.weight.detach()
        rounded = values(*FakeQuantGroups(False, 4, 16, False).quantize(weight), 16)
        own, other = ((weight - found) @ inputs.T for found in (module.dense(), rounded))
        ratios[name] = float((own.norm() / other.norm()).square())
    assert len(ratios) == (16 if family == "gpt2" else 24)
    assert max(ratios.values()) < 1, ratios
    assert sum(ratios.values()) / len(ratios) < 0.7, ratios


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("order=size", r"method\.quant\.order: 'size' is not allowed; .*activation, none"),
        ("damping=0", r"method\.quant\.damping: 0\S* is not allowed, a number between 1e-06 and 1 is"),
        ("calibration=0", r"method\.quant\.calibration: 0 is not allowed"),
        ("bits=3", r"method\.quant\.bits: 3 is not among 4 and 8"),
        ("train.max_steps=3", r"method\.quant\.train\.max_steps: training would undo"),
        ("train.max_steps=null", r"method\.quant\.train\.max_steps: training would undo"),
        ("select.roles=[query,head]", r"method\.quant\.select\.roles: .*'head' lies outside"),
        ("select.roles=[position_embedding]", r"method\.quant\.select\.roles: .*lies outside"),
    ],
)
def test_what_cannot_be_is_refused_in_the_plan(setting, said, data):
    with pytest.raises(UserError, match=said) as caught:
        planned("bert", data, "method=quant/gptq", f"method.quant.{setting}")
    assert "\n" not in str(caught.value)


def test_nothing_follows_its_packed_weights(facts, method, budget):
    with pytest.raises(FieldError, match="nothing can follow quant/gptq"):
        MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5).check(method().check(facts("bert")))
    with pytest.raises(FieldError, match="every weight that it takes was packed by quant/gptq"):
        replace(method(), order="none").check(method().check(facts("bert")))

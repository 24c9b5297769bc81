from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress_exp.config.checks import FieldError
from compress_exp.layers.weights import original
from compress_exp.methods.parametrized import Mask, attached, bake, lock, mark_masked
from compress_exp.methods.prune.common.ranking import ranked_masks
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.prune.wanda import SquaredNorms, WandaPruning, wanda_scores
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import is_conv1d
from tests.conftest import ARCHITECTURES
from tests.forward import forward_logits
from tests.moments import at

FAMILIES = tuple(ARCHITECTURES)


@pytest.fixture
def method(no_budget):
    return WandaPruning(name="prune/wanda", train=no_budget, sparsity=0.5)


def problem(seed, rows=13, width=24, tokens=57):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return torch.randn(rows, width, generator=generator), inputs


def masked(weight, inputs, sparsity=0.5):
    norms = SquaredNorms(inputs.shape[1], inputs.device)
    for piece in inputs.split(10):
        norms.add(piece)
    everything = torch.ones_like(weight, dtype=torch.bool)
    return ranked_masks([wanda_scores(weight, norms.norms())], [everything], sparsity, "row")[0]


def by_the_paper(weight, inputs, counts=None):
    """Algorithm 1 of the paper, in float64: sort each row's |W|·‖X‖₂ and zero the first k."""
    metric = weight.double().abs().numpy() * np.linalg.norm(inputs.double().numpy(), axis=0)[None, :]
    mask = np.ones_like(metric, dtype=bool)
    counts = [weight.shape[1] // 2] * len(weight) if counts is None else counts
    for row, order, count in zip(mask, np.argsort(metric, axis=1, kind="stable"), counts, strict=True):
        row[order[:count]] = False
    return torch.from_numpy(mask)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.875])
@pytest.mark.parametrize("seed", range(5))
def test_masks_equal_a_float64_reading_of_the_paper(sparsity, seed):
    weight, inputs = problem(seed)
    assert torch.equal(masked(weight, inputs, sparsity), by_the_paper(weight, inputs, [int(sparsity * 24)] * 13))


def test_where_the_papers_count_is_no_whole_number_rows_differ_by_one_and_the_matrix_is_exact():
    weight, inputs = problem(0)
    mask = masked(weight, inputs, 0.9)
    assert int((~mask).sum()) == round(0.9 * 13 * 24) == 281
    assert torch.equal(mask, by_the_paper(weight, inputs, [22] * 8 + [21] * 5))


def test_with_equal_norms_it_is_magnitude_of_each_row():
    weight, inputs = problem(0)
    inputs = inputs / inputs.norm(dim=0)
    everything = torch.ones_like(weight, dtype=torch.bool)
    assert torch.equal(masked(weight, inputs), ranked_masks([weight.abs()], [everything], 0.5, "row")[0])


def test_it_does_not_see_how_channels_are_scaled_but_magnitude_does():
    weight, inputs = problem(1)
    scale = torch.exp2(torch.randint(-4, 5, (24,), generator=torch.Generator().manual_seed(2)))
    everything = torch.ones_like(weight, dtype=torch.bool)
    assert torch.equal(masked(weight * scale, inputs / scale), masked(weight, inputs))
    plain, scaled = (ranked_masks([w.abs()], [everything], 0.5, "row")[0] for w in (weight, weight * scale))
    assert not torch.equal(plain, scaled)


def test_it_is_the_obs_metric_where_inputs_are_uncorrelated():
    weight, _ = problem(2)
    inputs = torch.diag(torch.rand(24, generator=torch.Generator().manual_seed(3)) + 0.1)
    inverse = torch.linalg.inv((inputs.T @ inputs).double())
    metric = weight.double().square() / inverse.diagonal()
    everything = torch.ones_like(weight, dtype=torch.bool)
    assert torch.equal(masked(weight, inputs), ranked_masks([metric], [everything], 0.5, "row")[0])


def rows_of(module, tensor):
    return tensor.T if is_conv1d(module) else tensor


def inputs_of(model, module, batch):
    seen = []
    valid = batch["attention_mask"].bool()
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][valid]))
    with torch.no_grad():
        forward_logits(model, batch)
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_projection_of_every_family_loses_half_of_each_row_and_keeps_the_rest(model_type, tiny, context, method):
    before = {name: tensor.clone() for name, tensor in tiny(model_type).state_dict().items()}
    model = method.prepare(tiny(model_type), context(model_type))
    with torch.no_grad():
        method.step(at(model, 1.0))
    modules = [target.modules[0] for target in targets(model, context(model_type).family, Select())]
    assert method.curves(at(model))["sparsity"] == 0.5
    for module in modules:
        zeros = (rows_of(module, module.weight) == 0).sum(1)
        assert bool((zeros == round(0.5 * rows_of(module, module.weight).shape[1])).all())
    mark_masked(model)
    bake(model)
    pruned = {id(module.weight) for module in modules}
    for name, parameter in model.named_parameters():
        kept = parameter != 0
        if id(parameter) in pruned:
            assert torch.equal(parameter[kept], before[name][kept])
        else:
            assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_the_first_block_follows_the_paper_on_dense_inputs_and_the_last_on_pruned_ones(
    model_type, tiny, context, method, batch
):
    context = replace(context(model_type), calibration=lambda count: [batch])
    model, plain = method.prepare(tiny(model_type), context), tiny(model_type)
    ours = [target.modules[0] for target in targets(model, context.family, Select())]
    dense = [target.modules[0] for target in targets(plain, context.family, Select())]
    expected = by_the_paper(rows_of(dense[0], dense[0].weight.detach()), inputs_of(plain, dense[0], batch))
    assert torch.equal(rows_of(ours[0], attached(ours[0], Mask).mask), expected)
    # In the last block the first projection sees what all the pruned blocks before it leave.
    per_block = len(ours) // 4
    query, untouched = ours[-per_block], dense[-per_block]
    expected = by_the_paper(rows_of(query, untouched.weight.detach()), inputs_of(model, query, batch))
    assert torch.equal(rows_of(query, attached(query, Mask).mask), expected)


def test_padding_does_not_count(tiny, context, method, batch):
    mask = batch["attention_mask"].clone()
    mask[:, 6:] = 0
    short = {name: tensor[:, :6] for name, tensor in batch.items()}
    outcomes = []
    for rows in (batch | {"attention_mask": mask}, short):
        model = method.prepare(tiny("bert"), replace(context("bert"), calibration=lambda count, rows=rows: [rows]))
        outcomes.append([attached(m, Mask).mask for m in model.modules() if attached(m, Mask)])
    assert all(torch.equal(padded, plain) for padded, plain in zip(*outcomes, strict=True))


def test_zero_sparsity_changes_no_bit(tiny, context, method):
    plain, model = tiny("bert"), replace(method, sparsity=0.0).prepare(tiny("bert"), context("bert"))
    bake(model)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in plain.state_dict().items())


def test_it_goes_on_from_an_earlier_pruning(tiny, context, method, budget):
    first = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5)
    model = first.prepare(tiny("bert"), context("bert"))
    first.step(at(model, 1.0))
    mark_masked(model)
    bake(model)
    lock(model)
    before = {name: tensor == 0 for name, tensor in model.state_dict().items()}
    model = replace(method, sparsity=0.75).prepare(model, context("bert"))
    for name, module in model.named_modules():
        if mask := attached(module, Mask):
            earlier = before[f"{name}.parametrizations.weight.original"]
            assert not bool((mask.mask & earlier).any())
            expected = earlier.sum(1).clamp(min=round(0.75 * earlier.shape[1]))
            assert torch.equal((~mask.mask).sum(1), expected)


def test_a_number_of_parameters_is_reached(tiny, context, method):
    model = tiny("bert")
    total = sum(parameter.numel() for parameter in model.parameters())
    wanted = total - round(
        0.625 * sum(original(t.modules[0]).numel() for t in targets(model, context("bert").family, Select()))
    )
    model = replace(method, sparsity=None, parameters=wanted).prepare(model, context("bert"))
    assert method.curves(at(model))["sparsity"] == pytest.approx(0.625, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"calibration": 0}, "calibration"),
        ({"sparsity": None}, "sparsity"),
        ({"parameters": 5}, "parameters"),
    ],
)
def test_values_out_of_range_are_refused(settings, field, budget):
    with pytest.raises(FieldError) as caught:
        WandaPruning(name="prune/wanda", train=budget, **({"sparsity": 0.5} | settings))
    assert caught.value.name == field


def test_weights_outside_the_blocks_are_refused_in_the_plan(method, facts):
    with pytest.raises(FieldError, match="'embedding' lies outside"):
        replace(method, select=Select(roles=("embedding",))).check(facts("bert"))

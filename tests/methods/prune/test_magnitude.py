from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from compress_exp.config.checks import FieldError, UserError
from compress_exp.layers.weights import original
from compress_exp.methods.parametrized import Mask, attached, bake, lock, mark_masked
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.select import Select, targets
from tests.conftest import ARCHITECTURES
from tests.moments import at

FAMILIES = tuple(ARCHITECTURES)


@pytest.fixture
def method(budget):
    return MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5, schedule="one_shot")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_projection_of_every_family_is_pruned_and_nothing_else(model_type, tiny, context, method):
    model = method.prepare(tiny(model_type), context(model_type))
    method.step(at(model, 1.0))
    mark_masked(model)
    bake(model)
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
            continue
        role = context(model_type).family.role(name, module)
        inside = role not in (None, "embedding", "position_embedding", "relative_bias", "head")
        zeros = int((weight == 0).sum())
        assert zeros == (round(0.5 * weight.numel()) if inside else 0) or not inside and zeros < weight.shape[1] + 1, (
            name
        )


def test_zero_sparsity_changes_no_bit(tiny, context, method, batch):
    plain, model = tiny("bert"), tiny("bert")
    zero = replace(method, sparsity=0.0)
    zero.step(at(zero.prepare(model, context("bert")), 1.0))
    bake(model)
    after = model.state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, after[name]), name


def test_gradual_zeros_follow_the_cubic_schedule_and_stay_zero_through_adam_and_weight_decay(
    tiny, context, budget, batch
):
    method = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.6, schedule="cubic")
    family = context("gpt2").family
    model = method.prepare(tiny("gpt2"), context("gpt2"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)

    def written():
        """The weights that would be written now."""
        fresh = method.prepare(tiny("gpt2"), context("gpt2"))
        fresh.load_state_dict(model.state_dict())
        bake(fresh)
        return [target.modules[0].weight.detach() for target in targets(fresh, family, Select())]

    previous = [torch.zeros_like(weight, dtype=torch.bool) for weight in written()]
    for step in range(20):
        model(input_ids=batch["input_ids"]).logits.square().mean().backward()
        method.step(at(model, (step + 1) / 20))
        behind = [original(target.modules[0]).detach().clone() for target in targets(model, family, Select())]
        optimizer.step()
        optimizer.zero_grad()
        sparsity = 0.6 * (1 - (1 - (step + 1) / 20) ** 3)
        zeros = [weight == 0 for weight in written()]
        assert [int(zero.sum()) for zero in zeros] == [round(sparsity * zero.numel()) for zero in zeros]
        assert all(bool((old <= new).all()) for old, new in zip(previous, zeros, strict=True))
        for target, old, zero in zip(targets(model, family, Select()), behind, zeros, strict=True):
            assert bool((original(target.modules[0])[zero] != old[zero]).any())  # the optimiser did move them
        previous = zeros


def test_a_cut_per_tensor_follows_a_global_one(tiny, context, method):
    wide = replace(method, scope="global")
    model = wide.prepare(tiny("bert"), context("bert"))
    wide.step(at(model, 1.0))
    mark_masked(model)
    bake(model)
    lock(model)
    method.step(at(method.prepare(model, context("bert")), 1.0))
    for module in (target.modules[0] for target in targets(model, context("bert").family, Select())):
        assert float((~attached(module, Mask).mask).float().mean()) >= 0.499


def test_kept_weights_are_untouched_by_the_mask(tiny, context, method):
    before = {name: p.clone() for name, p in tiny("bert").named_parameters()}
    model = method.prepare(tiny("bert"), context("bert"))
    method.step(at(model, 1.0))
    bake(model)
    for name, parameter in model.named_parameters():
        kept = parameter != 0
        assert torch.equal(parameter[kept], before[name][kept])


def test_a_later_stage_keeps_what_was_pruned_but_not_every_zero(tiny, context, method):
    model = method.prepare(tiny("bert"), context("bert"))
    method.step(at(model, 1.0))
    mark_masked(model)
    bake(model)
    model.classifier.weight.data[0, 0] = 0.0
    lock(model)
    locked = sum(isinstance(module, Mask) for module in model.modules())
    assert locked == 6 * 4
    assert not hasattr(model.classifier, "parametrizations")


def test_a_second_pruning_goes_on_from_the_first(tiny, context, method):
    model = method.prepare(tiny("bert"), context("bert"))
    method.step(at(model, 1.0))
    mark_masked(model)
    bake(model)
    first = {name: p == 0 for name, p in model.named_parameters()}
    lock(model)
    second = replace(method, sparsity=0.8)
    second.step(at(second.prepare(model, context("bert")), 1.0))
    bake(model)
    query = "bert.encoder.layer.0.attention.self.query.weight"
    now = dict(model.named_parameters())[query]
    assert int((now == 0).sum()) == round(0.8 * now.numel())
    assert bool((now == 0)[first[query]].all())


def test_tied_weights_are_pruned_once_and_stay_tied(tiny, context, budget):
    method = MagnitudePruning(
        name="prune/magnitude",
        train=budget,
        sparsity=0.5,
        schedule="one_shot",
        select=Select(roles=("embedding", "head")),
    )
    model = method.prepare(tiny("gpt2"), context("gpt2"))
    method.step(at(model, 1.0))
    bake(model)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert int((model.lm_head.weight == 0).sum()) == math.ceil(0.5 * model.lm_head.weight.numel())


def test_a_tensor_pruned_to_nothing_is_refused(tiny, context, budget):
    method = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.9, scope="global", schedule="one_shot")
    model = tiny("bert")
    model.bert.encoder.layer[0].attention.self.query.weight.data *= 1e-6
    with pytest.raises(UserError, match="prunes a whole tensor to nothing"):
        method.step(at(method.prepare(model, context("bert")), 1.0))


def test_coverage_zero_is_refused(tiny, context, method):
    nothing = replace(method, select=Select(include=("no.such.*",)))
    with pytest.raises(FieldError, match="no weight matched"):
        nothing.prepare(tiny("bert"), context("bert"))


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"sparsity": 1.5}, "sparsity"), ({"scope": "cell"}, "scope"), ({"schedule": "x"}, "schedule")],
)
def test_values_out_of_range_are_refused(settings, field, budget):
    with pytest.raises(FieldError) as caught:
        MagnitudePruning(name="prune/magnitude", train=budget, **({"sparsity": 0.5} | settings))
    assert caught.value.name == field


def test_original_is_the_trained_tensor(tiny, context, method):
    model = method.prepare(tiny("bert"), context("bert"))
    module = model.bert.encoder.layer[0].intermediate.dense
    assert original(module) is module.parametrizations.weight.original

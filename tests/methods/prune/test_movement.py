from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from compress_exp.config.checks import FieldError, UserError
from compress_exp.layers.weights import original
from compress_exp.methods.parametrized import attached, bake, lock, mark_masked, owned, passing
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.prune.movement import MovementGate, MovementPruning
from compress_exp.methods.prune.soft_movement import SoftMovementPruning
from tests.moments import at


@pytest.fixture
def method(budget):
    return MovementPruning(name="prune/movement", train=budget, sparsity=0.5, schedule="cubic")


def optimise(method, model, batch, steps, rate=1e-3):
    groups = method.parameter_groups(at(model))
    own = {id(p) for group in groups for p in group["params"]}
    groups.append({"params": [p for p in model.parameters() if id(p) not in own]})
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    for step in range(steps):
        logits = model(input_ids=batch["input_ids"]).logits
        loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0]))
        penalty = method.penalty(at(model, (step + 1) / steps))
        (loss if penalty is None else loss + penalty).backward()
        with torch.no_grad():
            method.step(at(model, method.own_progress((step + 1) / steps)))
        optimizer.step()
        optimizer.zero_grad()


def test_the_gradient_of_the_scores_is_that_of_the_masked_weight_times_the_weight():
    torch.manual_seed(0)
    weight = torch.randn(6, 8, requires_grad=True)
    gate = MovementGate(weight)
    gate.factor.copy_(torch.rand(6, 8) > 0.4)
    masked = gate(weight)
    assert torch.equal(masked, weight * gate.mask)
    direction = torch.randn(6, 8)
    masked.backward(direction)
    torch.testing.assert_close(gate.scores.grad, direction * weight.detach(), rtol=1e-6, atol=0)
    assert bool((gate.scores.grad[~gate.mask] != 0).all())
    assert torch.equal(weight.grad, direction * gate.mask)


def test_the_score_of_a_block_gathers_those_of_its_weights():
    torch.manual_seed(0)
    weight = torch.randn(6, 10)
    single, blocks = MovementGate(weight), MovementGate(weight, (4, 3))
    assert blocks.scores.shape == (2, 4)
    direction = torch.randn(6, 10)
    for gate in (single, blocks):
        gate(weight).backward(direction)
    for row in range(2):
        for column in range(4):
            expected = single.scores.grad[row * 4 : row * 4 + 4, column * 3 : column * 3 + 3].sum()
            assert float(blocks.scores.grad[row, column]) == pytest.approx(float(expected), rel=1e-5)


def test_weights_that_move_away_from_zero_stay(tiny, context, method):
    model = method.prepare(tiny("bert"), context("bert"))
    _, gate = owned(model, method.name, MovementGate)[0]
    gate.scores.data.copy_(torch.randn_like(gate.scores))
    method.step(at(model, 1.0))
    assert int(gate.mask.sum()) == gate.mask.numel() - round(0.5 * gate.mask.numel())
    scores = gate.scores.detach()
    assert float(scores[gate.mask].min()) >= float(scores[~gate.mask].max())


def test_pruned_weights_may_come_back_but_not_those_of_an_earlier_stage(tiny, context, method, batch, budget):
    model = tiny("bert")
    early = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.2)
    early.step(at(early.prepare(model, context("bert")), 1.0))
    mark_masked(model)
    bake(model)
    lock(model)
    method.prepare(model, context("bert"))
    modules = owned(model, method.name, MovementGate)
    before = [passing(module, but=method.name) for module, _ in modules]
    masks = []
    groups = [{"params": [gate.scores for _, gate in modules], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    method = replace(method, schedule="one_shot")
    for progress in (0.25, 0.5, 0.75, 1.0):
        with torch.no_grad():
            for _, gate in modules:
                gate.scores.grad = torch.randn_like(gate.scores)
            method.step(at(model, progress))
        masks.append([gate.mask.clone() for _, gate in modules])
        optimizer.step()
    assert any(bool((new & ~old).any()) for new, old in zip(masks[-1], masks[-2], strict=True))
    for (module, gate), allowed in zip(modules, before, strict=True):
        assert bool((module.weight[~allowed] == 0).all()) and not bool((gate.mask & ~allowed).any())
        assert int(gate.mask.sum()) == gate.mask.numel() - round(0.5 * gate.mask.numel())


def test_at_no_sparsity_it_is_plain_finetuning(tiny, context, method, batch):
    none = replace(method, sparsity=0.0)
    model, plain = none.prepare(tiny("bert"), context("bert")), tiny("bert")
    optimise(none, model, batch, 4)
    nothing = MagnitudePruning(name="prune/magnitude", train=none.train, sparsity=0.0)
    optimise(nothing, nothing.prepare(plain, context("bert")), batch, 4)
    bake(model)
    bake(plain)
    after = plain.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_whole_blocks_of_outputs_and_inputs_are_pruned(model_type, tiny, context, method):
    blocks = replace(method, block=(16, 8))
    model = blocks.prepare(tiny(model_type), context(model_type))
    for _, gate in owned(model, method.name, MovementGate):
        gate.scores.data.copy_(torch.randn_like(gate.scores))
    blocks.step(at(model, 1.0))
    for module, _ in owned(model, method.name, MovementGate):
        weight = module.weight.T if model_type == "gpt2" else module.weight
        tiles = (weight != 0).unfold(0, 16, 16).unfold(1, 8, 8).flatten(2)
        assert bool((tiles.all(2) | ~tiles.any(2)).all())
        assert int((~tiles.any(2)).sum()) == round(0.5 * tiles.shape[0] * tiles.shape[1])


def test_a_soft_mask_is_the_scores_above_the_threshold(tiny, context, budget):
    soft = SoftMovementPruning(name="prune/soft_movement", train=budget)
    model = soft.prepare(tiny("bert"), context("bert"))
    gates = [gate for _, gate in owned(model, soft.name, MovementGate)]
    for gate in gates:
        gate.scores.data.copy_(4 * torch.randn_like(gate.scores))
    expected = sum(torch.sigmoid(g.scores).sum().item() for g in gates) / 84_934_656
    assert soft.penalty(at(model, 1.0)).item() == pytest.approx(400 * expected, rel=1e-5)
    assert soft.penalty(at(model, 0.5)).item() == pytest.approx(350 * expected, rel=1e-5)
    soft.step(at(model, 0.5))
    assert all(torch.equal(gate.mask, torch.sigmoid(gate.scores) > 0.0875) for gate in gates)
    soft.step(at(model, 1.0))
    assert all(torch.equal(gate.mask, torch.sigmoid(gate.scores) > 0.1) for gate in gates)
    reached = 1 - sum(int(gate.mask.sum()) for gate in gates) / sum(gate.mask.numel() for gate in gates)
    assert soft.curves(at(model))["sparsity"] == pytest.approx(reached)


def test_the_penalty_closes_a_soft_mask_and_trimming_lands_on_the_amount(tiny, context, batch, budget):
    soft = SoftMovementPruning(
        name="prune/soft_movement",
        train=budget,
        strength=0.003 * 84_934_656 / 32_768,
        score_learning_rate=0.2,
        end=0.5,
        trim=True,
        sparsity=0.7,
        scope="tensor",
    )
    free = replace(soft, trim=False, sparsity=None)
    reached = {}
    for method in (free, soft):
        model = method.prepare(tiny("bert"), context("bert"))
        optimise(method, model, batch, 30)
        method.finish(at(model))
        reached[method] = method.curves(at(model))["sparsity"]
        for module, gate in owned(model, method.name, MovementGate):
            assert attached(module, MovementGate) is gate and bool((module.weight[~gate.mask] == 0).all())
    assert 0.05 < reached[free] < 0.6, reached
    closed = replace(free, strength=1e6, score_learning_rate=0.5)
    model = closed.prepare(tiny("bert"), context("bert"))
    optimise(closed, model, batch, 30)
    assert closed.curves(at(model))["sparsity"] == pytest.approx(0.995, abs=1e-3)
    assert reached[soft] == pytest.approx(0.7, abs=1e-3)


def test_settings_that_cannot_be_are_refused(budget, no_budget, tiny, context, method):
    with pytest.raises(FieldError, match="scores are learned"):
        MovementPruning(name="prune/movement", train=no_budget, sparsity=0.5)
    with pytest.raises(FieldError, match="outputs and inputs"):
        MovementPruning(name="prune/movement", train=budget, sparsity=0.5, block=(4,))
    with pytest.raises(FieldError, match="trim=true"):
        SoftMovementPruning(name="prune/soft_movement", train=budget, sparsity=0.5)
    with pytest.raises(FieldError, match="trim: true cuts to an amount"):
        SoftMovementPruning(name="prune/soft_movement", train=budget, trim=True)
    whole = replace(method, block=(512, 512), sparsity=0.6)
    with pytest.raises(UserError, match="a whole tensor to nothing"):
        whole.step(at(whole.prepare(tiny("bert"), context("bert")), 1.0))


def test_the_trained_tensor_is_behind_the_gate(tiny, context, method):
    model = method.prepare(tiny("bert"), context("bert"))
    module, _ = owned(model, method.name, MovementGate)[0]
    before = original(module).clone()
    method.step(at(model, 1.0))
    assert torch.equal(original(module), before)


@pytest.mark.parametrize(("steps", "told"), [(10, True), (2000, False)])
def test_a_training_that_cannot_move_weights_to_zero_is_told(steps, told, tiny, context, budget, caplog):
    slow = replace(budget, learning_rate=1e-4, warmup=0.0)
    movement = MovementPruning(name="prune/movement", train=slow, sparsity=0.5)
    soft = SoftMovementPruning(name="prune/soft_movement", train=slow)
    for method in (movement, soft):
        caplog.clear()
        method.prepare(tiny("bert"), replace(context("bert"), steps=steps))
        assert [f"{steps} steps move weights by at most" in line for line in caplog.messages] == [True] * told
    assert not told or "at most 0.00055" in caplog.text

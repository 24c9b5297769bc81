"""Wanda, SparseGPT and N:M where the rest trains on under the masks that calibration decided."""

from __future__ import annotations

import pytest
import torch

from compress_exp.experiment.build import apply_stage, run_stage
from compress_exp.layers.int8 import Int8Linear
from compress_exp.layers.surgery import is_pruned
from compress_exp.layers.weights import original
from compress_exp.methods.parametrized import bake, mark_masked
from compress_exp.methods.prune.sparsegpt import SparseGPTPruning
from compress_exp.methods.prune.wanda import WandaPruning
from compress_exp.methods.select import Select, targets
from compress_exp.training.trainer import Bar
from tests.experiments import planned
from tests.forward import forward_logits
from tests.moments import at


@pytest.mark.parametrize("kind", [WandaPruning, SparseGPTPruning])
@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_zeros_stay_zero_through_adam_and_weight_decay_and_the_rest_moves(
    kind, model_type, tiny, context, budget, batch
):
    method = kind(name="prune/x", train=budget, sparsity=0.5)
    model = method.prepare(tiny(model_type), context(model_type))
    modules = [target.modules[0] for target in targets(model, context(model_type).family, Select())]
    zeros = [module.weight.detach() == 0 for module in modules]
    before = [original(module).detach().clone() for module in modules]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(3):
        forward_logits(model, batch).square().mean().backward()
        if step == 0:
            # Momentum from before a weight was pruned moves it whatever its gradient is later.
            for module in modules:
                original(module).grad += 1e-3
        method.step(at(model, (step + 1) / 3))
        optimizer.step()
        optimizer.zero_grad()
    behind = [original(module).detach().clone() for module in modules]
    mark_masked(model)
    bake(model)
    for module, zero, old, moved in zip(modules, zeros, before, behind, strict=True):
        assert is_pruned(module) and int(zero.sum()) == round(0.5 * zero.numel())
        assert torch.equal(module.weight == 0, zero)
        assert bool((moved[zero] != old[zero]).all()) and bool((module.weight != old)[~zero].all())


@pytest.mark.parametrize("variant", ["wanda", "sparsegpt", "n_m"])
def test_at_once_with_quantization_the_masks_hold(variant, data, dense, tmp_path):
    at_once = (f"method=[prune/{variant},quant]", "stages=[[prune,quant]]", "method.prune.train.max_steps=3")
    plan = planned("gpt2", data, *at_once)
    base = dense(plan)
    built = apply_stage(plan, 0, base, base, tmp_path)
    assert built.steps == 3 and built.history[-1]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    packed = [module for module in built.model.modules() if isinstance(module, Int8Linear) and is_pruned(module)]
    assert len(packed) == 4 * len(list(built.model.transformer.h))
    assert all(float((module.weight == 0).float().mean()) >= 0.499 for module in packed)
    if variant == "n_m":
        assert all(bool(((module.weight.view(-1, 4) != 0).sum(1) <= 2).all()) for module in packed)


@pytest.mark.parametrize("variant", ["wanda", "sparsegpt"])
def test_with_a_budget_a_killed_run_goes_on_to_the_same_bits(variant, data, dense, tmp_path, monkeypatch):
    settings = (f"method=prune/{variant}", "method.prune.train.max_steps=3", "train.checkpoint_steps=1")
    plan = planned("bert", data, *settings)
    base, places = dense(plan), [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
    run_stage(plan, 0, base, base, places[0])
    with monkeypatch.context() as patch:
        patch.setattr(Bar, "on_train_batch_end", die_at_step_two)
        with pytest.raises(KeyboardInterrupt):
            run_stage(plan, 0, base, base, places[1])
    run_stage(plan, 0, base, base, places[1])
    for name in ("model.safetensors", "history.csv"):
        assert (places[0] / name).read_bytes() == (places[1] / name).read_bytes()


def die_at_step_two(self, trainer, *rest):
    if trainer.global_step == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize("variant", ["wanda", "sparsegpt"])
def test_two_processes_share_the_calibration_rows_and_agree_with_one(variant, data, dense, tmp_path):
    weights = []
    for devices in (1, 2):
        settings = (f"method=prune/{variant}", "method.prune.train.max_steps=1", f"train.devices={devices}")
        plan = planned("bert", data, *settings, "train.learning_rate=0", "task.batch_size=8")
        place = tmp_path / str(devices)
        place.mkdir()
        weights.append(apply_stage(plan, 0, dense(plan), dense(plan), place).model.state_dict())
    same = [float(((weights[1][name] != 0) == (tensor != 0)).float().mean()) for name, tensor in weights[0].items()]
    assert min(same) > 0.99
    for name, tensor in weights[0].items():
        both = (tensor != 0) & (weights[1][name] != 0)
        torch.testing.assert_close(weights[1][name][both], tensor[both], rtol=1e-3, atol=1e-3)

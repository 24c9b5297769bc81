"""What a pruning cannot do is refused by name: settings that mean nothing to a variant, tensors left with nothing."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from compress_exp.config.checks import UserError
from compress_exp.experiment.build import apply_stage
from compress_exp.experiment.plan import plan
from compress_exp.layers.weights import original
from compress_exp.methods.calibration import Statistic
from compress_exp.methods.hessian import Hessian
from compress_exp.methods.parametrized import owned
from compress_exp.methods.prune.group_lasso import GroupLassoPruning
from compress_exp.methods.prune.l0 import HardConcrete, L0Pruning
from compress_exp.methods.prune.l1 import L1Pruning, Proximal
from compress_exp.methods.prune.movement import MovementGate
from compress_exp.methods.prune.soft_movement import SoftMovementPruning
from compress_exp.methods.prune.sparsegpt import SparseGPTPruning
from compress_exp.methods.prune.wanda import SquaredNorms, WandaPruning
from compress_exp.methods.select import Select, targets
from tests.experiments import configure, planned
from tests.moments import at

ROUNDS = {"rounds": 2, "rewind": 0.0}
TIMES = ROUNDS | {"start": 0.25, "end": 0.75}
NOTHING = {name: ROUNDS for name in ("movement", "block_movement", "soft_movement", "l0", "cofi", "once_for_all")} | {
    name: TIMES
    for name in (
        *("l1", "group_lasso", "wanda", "sparsegpt", "n_m"),
        *("heads", "neurons", "structured", "layers", "vocabulary"),
    )
}
KNOWING = ("magnitude", "random", "taylor")


@pytest.mark.parametrize("variant", NOTHING)
def test_a_variant_has_no_key_for_what_it_does_not_know(variant, data):
    config = configure("bert", data, f"method=prune/{variant}")
    for name, value in NOTHING[variant].items():
        own = config.copy()
        OmegaConf.update(own, f"method.prune.{name}", value, force_add=True)
        with pytest.raises(UserError, match=rf"^method\.prune\.{name}: there is no such key; "):
            plan(own)


@pytest.mark.parametrize("variant", KNOWING)
def test_the_other_variants_take_a_start_and_an_end_or_rounds_and_rewinding(variant, data):
    for settings in ({"start": 0.25, "end": 0.75}, ROUNDS):
        config = configure("bert", data, f"method=prune/{variant}")
        for name, value in settings.items():
            OmegaConf.update(config, f"method.prune.{name}", value, force_add=True)
        (method,) = plan(config).stages[0].methods
        assert {name: getattr(method, name) for name in settings} == settings


@pytest.mark.parametrize("variant", ["l0", "soft_movement"])
def test_only_what_can_choose_a_strength_takes_none(variant, data):
    with pytest.raises(UserError, match=r"^method\.prune\.strength: "):
        planned("bert", data, f"method=prune/{variant}", "method.prune.strength=null")


def test_a_learning_rate_of_zero_without_a_strength_trains_nothing_and_prunes_nothing(data, dense, tmp_path):
    for variant in ("l1", "group_lasso"):
        plan = planned("bert", data, f"method=prune/{variant}", "method.prune.train.learning_rate=0")
        base = dense(plan)
        directory = tmp_path / variant
        directory.mkdir()
        built = apply_stage(plan, 0, base, base, directory)
        assert built.history[-1]["sparsity"] == 0.0


@pytest.mark.parametrize("kind", [WandaPruning, SparseGPTPruning])
def test_calibrated_pruning_names_the_tensor_that_it_would_empty(kind, tiny, context, no_budget):
    class Nothing(kind):
        def cut(self, weight, kept, statistic: Statistic | None, sparsity):
            return weight, torch.zeros_like(kept)

    method = Nothing(name="prune/x", train=no_budget, sparsity=0.5)
    with pytest.raises(UserError, match=r"^prune/x at sparsity 0\.5 prunes .*layer\.0\.attention.* to nothing"):
        method.prepare(tiny("bert"), context("bert"))


@pytest.mark.parametrize(("kind", "statistic"), [(WandaPruning, SquaredNorms), (SparseGPTPruning, Hessian)])
def test_a_tensor_so_small_that_its_share_rounds_to_all_of_it_is_refused(kind, statistic, tiny, context, no_budget):
    model, select = tiny("bert"), Select(include=("*layer.0.attention.self.query",))
    (target,) = targets(model, context("bert").family, select)
    target.modules[0].weight.data = target.modules[0].weight.data[:4, :4]
    method = kind(name="prune/x", train=no_budget, sparsity=0.0, select=select)
    method.prepare(model, context("bert"))
    gathered = statistic(4, torch.device("cpu"))
    gathered.add(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    method.set(target, gathered, 0.9)
    assert int((target.modules[0].weight == 0).sum()) == 14
    with pytest.raises(UserError, match=r"^prune/x at sparsity 0\.99 prunes .*query to nothing"):
        method.set(target, gathered, 0.99)


@pytest.mark.parametrize("kind", [L1Pruning, GroupLassoPruning])
def test_a_penalty_that_shrinks_a_whole_tensor_to_zero_is_refused_at_the_end(kind, tiny, context, budget):
    for amount in ({}, {"trim": True, "sparsity": 0.1}):
        method = kind(name="prune/x", train=budget, strength=1.0, **amount)
        model = method.prepare(tiny("bert"), context("bert"))
        module, gate = owned(model, method.name, Proximal)[5]
        gate.strength.fill_(1e5)
        with torch.no_grad():
            method.after_step(at(model, rate=1e-3))
            assert not bool(original(module).any())
            with pytest.raises(UserError, match="prune/x prunes a whole tensor to nothing"):
                method.finish(at(model))


def test_closed_gates_of_a_whole_tensor_are_refused_at_the_end(tiny, context, budget):
    l0 = L0Pruning(name="prune/l0", train=budget)
    model = l0.prepare(tiny("bert"), context("bert"))
    with torch.no_grad():
        l0.finish(at(model))
        owned(model, l0.name, HardConcrete)[3][1].log_alpha.fill_(-5.0)
        with pytest.raises(UserError, match="prune/l0 prunes a whole tensor to nothing"):
            l0.finish(at(model))


def test_trimming_globally_refuses_to_empty_a_tensor_of_low_scores_but_each_for_itself_does_not(tiny, context, budget):
    for scope in ("global", "tensor"):
        soft = SoftMovementPruning(name="prune/soft", train=budget, trim=True, sparsity=0.5, scope=scope)
        model = soft.prepare(tiny("bert"), context("bert"))
        with torch.no_grad():
            for index, (_, gate) in enumerate(owned(model, soft.name, MovementGate)):
                gate.scores.copy_(torch.randn_like(gate.scores) - (10 if index == 2 else 0))
            if scope == "global":
                with pytest.raises(UserError, match="prune/soft prunes a whole tensor to nothing"):
                    soft.finish(at(model))
            else:
                soft.finish(at(model))
                assert soft.curves(at(model))["sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_a_pruning_refused_for_a_whole_tensor_says_so_within_a_run(data, dense, tmp_path):
    plan = planned("bert", data, "method=prune/l1", "method.prune.strength=1e6")
    base = dense(plan)
    with pytest.raises(UserError, match="prune/l1 prunes a whole tensor to nothing; prune less"):
        apply_stage(plan, 0, base, base, tmp_path)

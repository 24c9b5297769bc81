"""Sparsify, then finetune the pattern: what the second of two trainings may and may not change."""

from __future__ import annotations

import pytest
import torch

from compress_exp.experiment.build import apply_stage, publish
from compress_exp.formats.artifact import load
from compress_exp.layers.surgery import is_pruned, pruned_modules
from compress_exp.layers.weights import original
from compress_exp.methods.parametrized import Mask, gates, owned
from compress_exp.methods.prune.once_for_all import OnceForAll
from compress_exp.models.families.base import family_of, roles
from tests.experiments import planned

STEPS = 10
OUTSIDE = ("embedding", "position_embedding", "head")


@pytest.fixture
def watched(monkeypatch):
    """After every optimiser step its learning rate, the masks, and the tensors behind them; taken from outside."""
    seen = []

    def watching(self, work):
        holders = owned(work.model, self.name, Mask)
        masks = [mask.mask.clone() for _, mask in holders]
        seen.append((work.rate, masks, [original(module).detach().clone() for module, _ in holders]))

    monkeypatch.setattr(OnceForAll, "after_step", watching)
    return seen


def run(family, data, dense, directory, *settings):
    budget = [f"method.prune.train.max_steps={STEPS}", "method.prune.train.warmup=0.2", "train.learning_rate=0.01"]
    plan = planned(family, data, "method=prune/once_for_all", *budget, *settings)
    base = dense(plan)
    return apply_stage(plan, 0, base, base, directory), base


@pytest.mark.parametrize(("family", "scope"), [("bert", "tensor"), ("gpt2", "tensor"), ("t5", "row")])
def test_the_pattern_at_the_end_of_the_first_training_is_that_of_the_artifact(
    family, scope, data, dense, tmp_path, watched
):
    built, _ = run(family, data, dense, tmp_path, f"method.prune.scope={scope}", "method.prune.sparsity=0.8")
    assert built.steps == len(watched) == 2 * STEPS
    locked = watched[STEPS - 1][1]
    publish(built, tmp_path)
    weights = [module.weight.detach() for _, module in pruned_modules(load(tmp_path))]
    assert len(weights) == len(locked) > 0
    for weight, mask in zip(weights, locked, strict=True):
        assert torch.equal(weight != 0, mask)
        assert int((weight == 0).sum()) == round(0.8 * weight.numel())
    for _, masks, _ in watched[STEPS:]:
        assert all(torch.equal(mask, first) for mask, first in zip(masks, locked, strict=True))
    assert not torch.equal(watched[STEPS - 1][2][0] * locked[0], weights[0])


def test_the_pattern_grows_until_its_end_and_then_waits_for_the_second_training(data, dense, tmp_path, watched):
    run("bert", data, dense, tmp_path, "method.prune.end=0.6")
    zeros = [sum(int((~mask).sum()) for mask in masks) for _, masks, _ in watched]
    assert all(later > earlier for earlier, later in zip(zeros[:6], zeros[1:6], strict=False))
    assert len(set(zeros[5:])) == 1


def test_the_learning_rate_starts_again_in_the_second_training(data, dense, tmp_path, watched):
    run("bert", data, dense, tmp_path)
    rates = [rate for rate, _, _ in watched]
    # Up over two of ten steps, then down by an eighth of 0.01 in each.
    once = [0.005, 0.01, *(0.01 * (8 - step) / 8 for step in range(8))]
    assert rates == pytest.approx(once + once, rel=1e-6)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_embeddings_biases_and_head_are_neither_marked_nor_sparse(family, data, dense, tmp_path):
    built, base = run(family, data, dense, tmp_path)
    before = dict(load(base).named_parameters())
    checked = set()
    for name, (role, module) in roles(built.model, family_of(family)).items():
        assert is_pruned(module) == (role not in OUTSIDE) and not gates(module), name
        checked.add(role)
    assert {"embedding", "ffn_in"} <= checked
    pruned = {f"{name}.weight" for name, _ in pruned_modules(built.model)}
    for name, parameter in built.model.named_parameters():
        if name not in pruned:
            added = int((parameter == 0).sum()) - int((before[name] == 0).sum())
            assert added <= 0, name

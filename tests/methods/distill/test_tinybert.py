from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress_exp.config.checks import FieldError, UserError
from compress_exp.experiment.build import run_stage, train_stage
from compress_exp.formats.artifact import load
from compress_exp.losses.soft_targets import SoftTargets
from compress_exp.methods.distill.tinybert import TinyBert
from tests.experiments import planned


def test_layers_come_before_predictions_each_with_its_share(data, dense, store, tmp_path):
    plan = planned("bert", data, "method=distill/tinybert", "train.max_steps=4")
    body, prediction = plan.stages
    assert (body.train.max_steps, prediction.train.max_steps) == (3, 1)
    assert body.keys == prediction.keys == ("distill",)
    assert set(body.losses) == {"attention", "hidden"} and set(prediction.losses) == {"soft_targets"}
    base = dense(plan)
    first = store.get(plan.stage_recipe(0), lambda d, check: run_stage(plan, 0, base, base, d), "body")
    before, dense_head = load(first), load(base).classifier.weight
    assert torch.equal(before.classifier.weight, dense_head)  # no loss of the body sees it
    built = train_stage(plan, 1, first, base, tmp_path)
    assert built.model.config.num_hidden_layers == 2
    assert not torch.equal(built.model.classifier.weight, dense_head)
    row = built.history[0]
    assert row["hard"] == 0.0 and row["loss"] == pytest.approx(row["soft"])


def test_its_parts_have_the_keys_of_the_same_stages_written_one_by_one(data):
    whole = planned("bert", data, "method=distill/tinybert", "train.max_steps=4")
    apart = planned(
        "bert",
        data,
        "method=[distill/hidden,finetune]",
        "train.max_steps=4",
        "method.distill.train.max_steps=3",
        "method.finetune.train.max_steps=1",
        "~loss@method.distill.loss.soft_targets",
        "+loss@method.distill.loss.attention=attention",
        "+loss@method.finetune.loss.soft_targets=soft_targets",
        "method.finetune.loss.soft_targets.temperature=1.0",
        "method.finetune.loss.soft_targets.weight_hard=0.0",
        "method.finetune.loss.soft_targets.weight_soft=1.0",
    )
    assert [stage.train.max_steps for stage in whole.stages] == [stage.train.max_steps for stage in apart.stages]
    assert whole.chain[0] == apart.chain[0]
    assert whole.recipes[1:] == apart.recipes[1:]


def test_what_cannot_be_is_refused(data, budget):
    with pytest.raises(
        UserError, match=r"stages: distill \(distill/tinybert\) is several stages; give it one of its own"
    ):
        planned("bert", data, "method=[distill/tinybert,prune]", "stages=[[distill,prune]]")
    losses = {"soft_targets": SoftTargets()}
    with pytest.raises(FieldError, match="both stages need training"):
        TinyBert(name="distill/tinybert", train=replace(budget, max_steps=1), prediction=losses)
    with pytest.raises(FieldError, match="body"):
        TinyBert(name="distill/tinybert", train=budget, prediction=losses, body=1.0)


def test_epochs_are_shared_out_too(budget):
    method = TinyBert(
        name="distill/tinybert", train=replace(budget, max_steps=None, epochs=4), prediction={"task": SoftTargets()}
    )
    assert [part.train.epochs for part in method.expand()] == [3.0, 1.0]

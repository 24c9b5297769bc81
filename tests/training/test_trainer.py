from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from compress_exp.config.checks import UserError
from compress_exp.experiment.build import apply_stage, publish, run_stage
from compress_exp.formats.artifact import load
from compress_exp.layers.surgery import pruned_modules
from compress_exp.layers.weights import original
from compress_exp.losses.task import TaskLoss
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.outputs.store import STATE
from compress_exp.training.checkpoint import CHECKPOINT
from compress_exp.training.data import Batches
from compress_exp.training.module import CompressionModule
from compress_exp.training.trainer import Bar, fit
from tests.experiments import planned
from tests.moments import bare_context


def test_rounds_cut_first_and_finetune_then(dense, data, tmp_path):
    settings = ("method.prune.rounds=3", "method.prune.sparsity=0.488", "method.prune.schedule=geometric")
    plan = planned("bert", data, "method=prune/iterative", *settings, "method.prune.train.max_steps=11")
    base = dense(plan)
    built = apply_stage(plan, 0, base, base, tmp_path)
    assert built.steps == 33
    sparsity = {int(row["step"]): row["sparsity"] for row in built.history}
    assert sparsity[10] == pytest.approx(0.2, abs=0.01)
    assert sparsity[20] == pytest.approx(0.36, abs=0.01)
    assert sparsity[30] == sparsity[32] == pytest.approx(0.488, abs=0.01)


def test_bf16_autocast_keeps_float32_weights(dense, data, tmp_path):
    plan = planned("gpt2", data, "method=finetune", "train.precision=bf16")
    base = dense(plan)
    built = apply_stage(plan, 0, base, base, tmp_path)
    assert {parameter.dtype for parameter in built.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("variant", "scores", "settings"),
    [
        ("gradual", None, []),
        ("movement", "scores", []),
        ("l0", "log_alpha", ["method.prune.trim=true", "method.prune.sparsity=0.5", "method.prune.scope=tensor"]),
    ],
)
def test_bf16_autocast_prunes_in_float32(variant, scores, settings, dense, data, tmp_path, monkeypatch):
    plan = planned("bert", data, f"method=prune/{variant}", "train.precision=bf16", *settings)
    outputs, seen = set(), {}

    def watch(self, trainer, module):
        projection = module.model.bert.encoder.layer[0].intermediate.dense
        projection.register_forward_hook(lambda *call: outputs.add(call[-1].dtype))

    def look(self, trainer, module, optimizer):
        for name, parameter in module.model.named_parameters():
            state = [tensor.dtype for tensor in optimizer.state[parameter].values() if tensor.dim()]
            seen.setdefault(name, set()).update({parameter.dtype, parameter.grad.dtype, *state})
            if scores is not None and name.endswith(f".{scores}"):
                assert bool(parameter.grad.any())

    monkeypatch.setattr(Bar, "on_train_start", watch)
    monkeypatch.setattr(Bar, "on_before_optimizer_step", look)
    base = dense(plan)
    publish(apply_stage(plan, 0, base, base, tmp_path), tmp_path)
    assert outputs == {torch.bfloat16}
    assert set().union(*seen.values()) == {torch.float32}
    learned = [name for name in seen if "parametrizations.weight.0" in name]
    assert len(learned) == (0 if scores is None else 6 * 4)
    stored = load_file(tmp_path / "model.safetensors").values()
    assert {tensor.dtype for tensor in stored if tensor.is_floating_point()} == {torch.float32}
    pruned = [module.weight for _, module in pruned_modules(load(tmp_path))]
    assert len(pruned) == 6 * 4
    assert all(int((weight == 0).sum()) == weight.numel() // 2 for weight in pruned)


@pytest.mark.parametrize(
    ("damaged", "sentence"),
    [
        (0, r"^train: the loss is not finite at step 0, before anything was learned"),
        (4, r"^train\.learning_rate: the loss is not finite at step 10; lower it"),  # every tenth is looked at
        (11, r"^train\.learning_rate: the loss is not finite at step 11; lower it"),  # and the last
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_told_in_one_sentence(value, damaged, sentence, dense, data, tmp_path):
    plan = planned("bert", data, "method=finetune", "train.max_steps=12")
    model, calls = load(dense(plan)), iter(range(20))
    rows = [{"input_ids": [1, 2, 3], "labels": 0}] * 8
    batch = {"input_ids": torch.ones(8, 3, dtype=torch.long), "labels": torch.zeros(8, dtype=torch.long)}

    def forward(*_: object) -> None:
        if next(calls) == damaged:
            model.classifier.weight.data[:] = value

    model.register_forward_pre_hook(forward)
    module = CompressionModule(
        model, replace(bare_context("bert"), task=plan.task, steps=12), {"task": TaskLoss()}, (), plan.train
    )
    batches = Batches(rows, lambda _: dict(batch), 8, 0, True, 12)
    with pytest.raises(UserError, match=sentence):
        fit(module, batches, plan.train, tmp_path, "x")


def test_scores_that_training_ruins_end_it_by_their_module(dense, data, tmp_path, monkeypatch):
    def ruined(self, module, mask):
        return original(module).abs() / (original(module).abs().sum() * 0)

    monkeypatch.setattr(MagnitudePruning, "score", ruined)
    plan = planned("bert", data, "method=prune/gradual", "train.max_steps=12")
    base = dense(plan)
    with pytest.raises(UserError, match=r"^prune/gradual: bert\.encoder\.layer\.0\.\S+: scores are not finite, \w+ in"):
        apply_stage(plan, 0, base, base, tmp_path)


def test_a_damaged_checkpoint_starts_over(dense, data, tmp_path, caplog):
    plan = planned("bert", data, "method=prune")
    base = dense(plan)
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    whole.mkdir()
    (damaged / STATE).mkdir(parents=True)
    (damaged / STATE / CHECKPOINT).write_bytes(b"not a checkpoint")
    run_stage(plan, 0, base, base, whole)
    run_stage(plan, 0, base, base, damaged)
    assert "cannot be read" in caplog.text
    assert (whole / "model.safetensors").read_bytes() == (damaged / "model.safetensors").read_bytes()
    assert not (damaged / STATE / CHECKPOINT).exists()


def test_curves_are_kept_with_the_artifact(dense, data, tmp_path):
    plan = planned("bert", data, "method=prune", "loss=soft_targets", "train.max_steps=25")
    base = dense(plan)
    run_stage(plan, 0, base, base, tmp_path)
    with (tmp_path / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["step"]) for row in rows] == [0, 10, 20, 24]
    assert set(rows[0]) == {"step", "hard", "soft", "loss", "sparsity", "agreement"}
    zeros = [float((module.weight == 0).float().mean()) for _, module in pruned_modules(load(tmp_path))]
    assert sum(zeros) / len(zeros) == pytest.approx(float(rows[-1]["sparsity"]), abs=0.02)


def test_without_a_terminal_long_training_is_told_in_lines(dense, data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("compress_exp.training.trainer.TELL_SECONDS", 0.0)
    plan = planned("bert", data, "method=finetune")
    base = dense(plan)
    caplog.clear()
    with caplog.at_level("INFO", logger="compress_exp"):
        built = apply_stage(plan, 0, base, base, tmp_path)
    told = [line for line in caplog.messages if " step " in line]
    assert [line.split()[:5] for line in told] == [["finetune", "step", str(n), "of", "3,"] for n in (1, 2, 3)]
    assert told[-1].endswith(f"loss {built.history[-1]['loss']:.3f}")


@pytest.mark.parametrize(
    ("precision", "there", "told"),
    [("bf16", False, 1), ("bf16", True, 0), ("f32", False, 0)],
)
def test_bf16_that_is_emulated_is_told_once_before_training(
    precision, there, told, dense, data, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("compress_exp.training.trainer.kernels_available", lambda: there)
    plan = planned("bert", data, "method=finetune", f"train.precision={precision}")
    base = dense(planned("bert", data, "method=finetune"))
    run_stage(plan, 0, base, base, tmp_path)
    lines = [record.getMessage() for record in caplog.records if "train.precision" in record.getMessage()]
    assert len(lines) == told and all(line.endswith("set f32") for line in lines)

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compress_exp.config.checks import FieldError, UserError
from compress_exp.config.recovery import Lora, Recovery
from compress_exp.experiment.build import apply_stage, run_stage
from compress_exp.formats.artifact import load
from compress_exp.losses.task import TaskLoss
from compress_exp.training.module import CompressionModule
from compress_exp.training.recovery import recover
from compress_exp.training.trainer import Bar
from tests.experiments import planned
from tests.forward import forward_logits

QUERY = "bert.encoder.layer.1.attention.self.query.weight"


def both(data, dense, directory, *overrides, family="bert"):
    plan = planned(family, data, *overrides)
    base = dense(plan)
    directory.mkdir(exist_ok=True)
    return load(base).state_dict(), apply_stage(plan, 0, base, base, directory).model.state_dict()


def test_an_adapter_changes_nothing_before_it_is_trained(tiny, context, batch):
    model = tiny("gpt2")
    expected = forward_logits(model, batch)
    recover(Recovery(adapter=Lora(rank=2)), model, context("gpt2"))
    assert torch.equal(forward_logits(model, batch), expected)
    names = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert names == {"first", "second"}


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_what_an_adapter_leaves_is_an_update_of_its_rank_and_a_head(family, data, dense, tmp_path):
    before, after = both(
        data, dense, tmp_path / "a", "method=finetune", "recovery=lora", "recovery.adapter.rank=3", family=family
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    blocks = {name for name in changed if any(part in name for part in ("encoder.", "decoder.", ".h."))}
    assert blocks
    for name in blocks:
        update = (after[name] - before[name]).double()
        assert torch.linalg.svdvals(update)[3] < 1e-5 * torch.linalg.svdvals(update)[0], name
    assert all(name.startswith(("classifier", "bert.pooler")) for name in changed - blocks)
    assert (changed - blocks != set()) == (family == "bert")


def test_what_is_pruned_stays_so_under_an_adapter(data, dense, tmp_path):
    before, after = both(data, dense, tmp_path / "a", "method=prune/wanda", "recovery=lora", "+method.prune.loss=null")
    assert torch.equal(before["classifier.weight"], after["classifier.weight"])  # it is post-training
    settings = ("method=prune/wanda", "method.prune.train.max_steps=3", "recovery=lora")
    before, after = both(data, dense, tmp_path / "b", *settings)
    kept = after[QUERY] != 0
    assert int((~kept).sum()) == kept.numel() // 2
    assert not torch.equal(before[QUERY][kept], after[QUERY][kept])


def test_a_killed_recovery_ends_bit_identical(data, dense, tmp_path, monkeypatch):
    settings = ("method=prune", "recovery=lora", "recovery.layer_decay=0.8", "train.checkpoint_steps=1")
    plan = planned("bert", data, *settings)
    base = dense(plan)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    run_stage(plan, 0, base, base, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Bar, "on_train_batch_end", _die_at_two)
        run_stage(plan, 0, base, base, tmp_path / "killed")
    run_stage(plan, 0, base, base, tmp_path / "killed")
    for name in ("model.safetensors", "history.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def _die_at_two(self, trainer, *rest):
    if trainer.global_step == 2:
        raise InterruptedError


@pytest.mark.parametrize(
    ("overrides", "moves"),
    [
        (["recovery=bitfit"], lambda name: name.endswith("bias") or name.startswith(("classifier", "bert.pooler"))),
        (["recovery.trainable=[norms]"], lambda name: "LayerNorm" in name),
        (["recovery.freeze=[embeddings,biases]"], lambda name: "embeddings.w" not in name and "bias" not in name),
        (["recovery.trainable=['*layer.0*']"], lambda name: "layer.0" in name),
    ],
)
def test_what_is_frozen_does_not_move_by_a_bit(overrides, moves, data, dense, tmp_path):
    before, after = both(data, dense, tmp_path / "a", "method=finetune", *overrides)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(moves(name) or "LayerNorm" in name or name.startswith(("classifier", "bert.pooler")) for name in changed)
    assert not any("position" in name for name in changed) or "freeze" not in overrides[0]
    if overrides[0] != "recovery.freeze=[embeddings,biases]":
        assert all(moves(name) for name in changed)


def test_rates_fall_from_layer_to_layer(tiny, context, budget):
    model = tiny("bert")
    arguments = (replace(context("bert"), steps=3), {"task": TaskLoss()}, (), budget)
    module = CompressionModule(model, *arguments, layer_decay=0.5)
    rates = {
        id(p): group["initial_lr"] / budget.learning_rate
        for group in module.configure_optimizers()["optimizer"].param_groups
        for p in group["params"]
    }
    layers = model.bert.encoder.layer
    assert [rates[id(layer.output.dense.weight)] for layer in layers] == [0.0625, 0.125, 0.25, 0.5]
    assert rates[id(model.bert.embeddings.word_embeddings.weight)] == 0.5**5
    assert rates[id(model.classifier.weight)] == 1.0
    plain = CompressionModule(tiny("bert"), *arguments).configure_optimizers()["optimizer"].param_groups
    assert len(plain) == 2


def test_keys_know_a_recovery_only_where_there_is_one(data):
    whole = planned("bert", data, "method=prune").recipes
    assert "recovery" not in whole[1]
    part = planned("bert", data, "method=prune", "recovery=lora").recipes
    assert part[0] == whole[0] and part[1]["recovery"]["adapter"]["rank"] == 8
    idle = ("method=prune/wanda", "recovery=lora")
    assert planned("bert", data, *idle).recipes == planned("bert", data, idle[0]).recipes
    alone = planned("bert", data, "method=[prune,quant]", "+recovery@method.prune.recovery=lora").recipes
    assert "recovery" in alone[1] and "recovery" not in alone[2]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=prune/l1", "recovery=lora"], r"recovery.adapter: prune \(prune/l1\) moves the weights"),
        (["method=prune", "recovery.layer_decay=0"], "recovery.layer_decay: 0"),
        (["method=prune", "recovery=lora", "recovery.adapter.rank=0"], "recovery.adapter.rank: 0 is not allowed"),
        (["method=prune", "recovery.trainable=[]"], "recovery.trainable: an empty list trains nothing"),
        (
            ["method=[prune,quant]", "stages=[[prune,quant]]", "+recovery@method.prune.recovery=lora"]
            + ["+recovery@method.quant.recovery=bitfit"],
            "stages: prune and quant train at once and recover differently",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_the_plan(overrides, sentence, data):
    with pytest.raises((UserError, FieldError), match=sentence):
        planned("bert", data, *overrides)


def test_what_matches_nothing_is_refused(tiny, context):
    with pytest.raises(UserError, match="recovery.trainable: 'biasses' matches no parameter; parts are weights"):
        recover(Recovery(trainable=("biasses",)), tiny("bert"), context("bert"))
    with pytest.raises(UserError, match="nothing is left to train"):
        recover(Recovery(freeze=("*",)), tiny("bert"), context("bert"))

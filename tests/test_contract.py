"""Every experiment of the covering design keeps the contract; `pytest --all 1` does it for the full product."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parametrize

from compress_exp.config.checks import UserError
from compress_exp.experiment.build import convert, publish, run_stage, train_stage
from compress_exp.formats.artifact import load
from compress_exp.formats.codecs import codecs
from compress_exp.layers.stored import Stored, kinds
from compress_exp.layers.surgery import pruned_modules
from compress_exp.layers.weights import original
from compress_exp.measurement import subject
from compress_exp.measurement.hardware import Hardware
from compress_exp.methods.parametrized import Mask, owned
from compress_exp.models.families.base import is_conv1d
from compress_exp.models.forward import forward_outputs
from compress_exp.runtimes.base import runtime
from compress_exp.training.module import CompressionModule
from compress_exp.training.trainer import Bar
from tests import covering
from tests.experiments import planned
from tests.variants import (
    FIRST,
    HOME,
    LATE,
    PRUNING,
    SHRINKING,
    TRAINED,
    UNDOING,
    VARIANTS,
    chosen,
    fixed_batch,
    trained,
)

WRITTEN = ("model.safetensors", "config.json", "history.csv")
IF_ASKED = [("prune/wanda", "t5"), ("prune/sparsegpt", "bart"), ("prune/n_m", "gpt2"), ("prune/vocabulary", "t5")]
ROUNDING = "quant/bf16"  # what follows computes in float32 and is rounded again
ONE_BLOCK = ("model.architecture.num_layers=1", "model.architecture.num_decoder_layers=1")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Outputs that the reload test looks for, by artifact directory."""
    return tmp_path_factory.mktemp("expected")


def expect(expected, name, directory, wanted, plain=False):
    """Note an artifact with its outputs for the reload test; a plain one is to need no import of ours."""
    entry = {"path": str(directory), "plain": plain, "outputs": {key: value.tolist() for key, value in wanted.items()}}
    (expected / f"{re.sub('[ /]', '.', name)}.json").write_text(json.dumps(entry))


def outputs(plan, model):
    with torch.no_grad():
        found = forward_outputs(model.eval(), fixed_batch(model), plan.task.outputs)
    return {name: value.float() for name, value in found.items()}


def test_every_experiment_of_the_design_keeps_the_contract(
    row, request, data, dense, store, tmp_path, expected, gradients
):
    share = request.config.option.all
    plan = covering.planned(row, data)
    if plan is None:
        assert share is not None, f"the plan refuses it; run {covering.COMMAND}"
        pytest.skip("the plan refuses it")
    base = parent = before = dense(plan)
    for index, stage in enumerate(plan.stages):
        if row.partner.startswith("after") and index == 0:
            parent = before = store.get(
                plan.stage_recipe(0), lambda where, check: run_stage(plan, 0, base, base, where), "partner"
            )
            continue
        directory = tmp_path / str(index)
        directory.mkdir()
        found, gradients.seen = {}, {}
        built = train_stage(plan, index, parent, base, directory)
        told = outputs(plan, built.model)
        built = replace(built, model=convert(stage, built))
        found = outputs(plan, built.model)
        if stage.trains:
            _check_training(row, plan, stage, built, gradients.seen)
            # Scales of int8 are read off what was rounded once, which moves the last bit of some.
            same = [torch.allclose(told[name], found[name], rtol=1e-5, atol=1e-6) for name in found]
            assert all(same) or plan.facts.rounded and index == len(plan.stages) - 1
            assert all(value.std() > 0 for value in told.values())
        assert not any(parametrize.is_parametrized(module) for module in built.model.modules())
        publish(built, directory)
        if share is None:
            expect(expected, "-".join((*row, str(index))), directory, found)
        else:
            again = outputs(plan, load(directory))
            assert all(torch.equal(found[name], again[name]) for name in found)
        parent, before = directory, parent
    size, dense_size = ((place / "model.safetensors").stat().st_size for place in (parent, base))
    shared = row.family == "albert"  # its layers are one: fewer of them take as much
    fewer = shared and (row.variant == "prune/layers" or row.variant.startswith("distill"))
    equal = (row.variant == "finetune" or fewer) and (
        row.partner == "alone" or shared and row.partner == "after distill"
    )
    assert size == dense_size if equal else size < dense_size
    if row.partner == "after prune":
        _check_zeros(row.variant, load(before), built.model)
    if row.runtime != "eager":
        _check_runtime(row.runtime, plan, parent, before, tmp_path)
    if share is not None:
        shutil.rmtree(tmp_path)  # tens of thousands


def _check_training(row, plan, stage, built, seen):
    assert built.steps == stage.train.max_steps * math.prod(m.course.trainings for m in stage.methods) > 0
    assert all(math.isfinite(value) for line in built.history for value in line.values())
    first, last = built.history[0], built.history[-1]
    assert last["step"] == built.steps - 1
    if set(stage.losses) == {"soft_targets"}:
        assert {"hard", "soft", "loss"} <= set(first)
    if set(stage.losses) <= {"task", "soft_targets"}:
        terms = sum(value for name, value in first.items() if name in ("hard", "soft") or name.startswith("penalty_"))
        assert first["loss"] == pytest.approx(terms, rel=1e-5)
    # At first a model is its own teacher. A key's bias shifts all scores of a query alike, so that nothing comes of it.
    assert seen and {name for name, found in seen.items() if not any(found)} <= {n for n in seen if n.endswith("bias")}


def _check_runtime(name, plan, artifact, parent, place):
    served = {kind: name for kind in ("encoder", "decoder", "encoder_decoder")}
    hardware = Hardware(**{**vars(plan.hardware), "runtime": served})
    loaded = subject.load(artifact, parent, hardware, plan.task, subject.beside(place / "deploy"))
    assert loaded.deploy(runtime(name), place / "checks") is None


def _check_zeros(variant, pruned, model):
    before, after = dict(pruned_modules(pruned)), dict(pruned_modules(model))
    smaller = variant in (*SHRINKING, *LATE) or variant.startswith(("distill", "share"))
    assert set(after) == ({name for name in before if _has(model, name)} if smaller else set(before)) != set()
    for name, module in after.items():
        if smaller:
            like = [old.weight != 0 for other, old in before.items() if _kind(other) == _kind(name)]
            assert any(_cut_from(module.weight != 0, pattern) for pattern in like), name
        else:
            stored = isinstance(module, Stored)
            zeros = before[name].weight.T == 0 if stored and is_conv1d(before[name]) else before[name].weight == 0
            assert bool(((module.dense() if stored else module.weight) == 0)[zeros].all()), name


def _has(model, name):
    return name in dict(model.named_modules())


def _kind(name):
    """A module's name without the number of its layer."""
    return re.sub(r"\d+", "", name)


def _cut_from(pattern, whole):
    """Whether a pattern of zeros is some rows, or some columns, of another, each once and in order."""
    for axis in (0, 1):
        lines, others = pattern.movedim(axis, 0).tolist(), iter(whole.movedim(axis, 0).tolist())
        if pattern.shape[1 - axis] == whole.shape[1 - axis] and all(line in others for line in lines):
            return True
    return False


@pytest.fixture
def gradients(monkeypatch):
    """In `seen`: whether each weight of the blocks and each parametrized one got a gradient, step by step."""

    class Watch:
        seen: dict[str, list[bool]] = {}

    watch, before = Watch(), CompressionModule.on_before_optimizer_step

    def look(self, optimizer):
        for name, module in self.model.named_modules():
            if parametrize.is_parametrized(module, "weight") and original(module).requires_grad:
                _note(watch.seen, name, original(module).grad)
        for name, parameter in self.model.named_parameters():
            if re.search(r"\.\d+\.", name) and "parametrizations" not in name and parameter.requires_grad:
                _note(watch.seen, name, parameter.grad)
        return before(self, optimizer)

    monkeypatch.setattr(CompressionModule, "on_before_optimizer_step", look)
    return watch


def _note(seen, name, gradient):
    seen.setdefault(name, []).append(gradient is not None and bool((gradient != 0).any()))


@pytest.mark.parametrize(
    ("variant", "family", "overrides"),
    [
        ("prune/layers", "bert", ()),
        ("prune/layers", "t5", ()),
        ("prune/neurons", "bert", ()),
        ("prune/neurons", "gpt2", ()),
        ("prune/heads", "t5", ("method.prune.scope=layer", *ONE_BLOCK)),  # T5's blocks share a bias for every head
    ],
)
def test_what_is_uniform_is_an_ordinary_architecture(variant, family, overrides, data, dense, tmp_path, expected):
    plan = planned(family, data, *chosen(variant), *overrides)
    base = dense(plan)
    run_stage(plan, 0, base, base, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    expect(expected, f"plain-{variant}-{family}", tmp_path, outputs(plan, load(tmp_path)), plain=True)


def test_tables_are_packed_where_they_are_asked_for(data, dense, tmp_path, expected):
    plan = planned("bert", data, "method=quant/weight_only", "method.quant.select.roles=[embedding]")
    base = dense(plan)
    run_stage(plan, 0, base, base, tmp_path)
    expect(expected, "tables", tmp_path, outputs(plan, load(tmp_path)))


@pytest.mark.parametrize(
    ("variant", "family"), [*((variant, HOME.get(variant, "bert")) for variant in TRAINED), *IF_ASKED]
)
def test_a_killed_run_ends_bit_identical(variant, family, data, dense, tmp_path, monkeypatch):
    plan = planned(family, data, *trained(variant), "train.checkpoint_steps=1")
    base = dense(plan)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for place in (undisturbed, disturbed):
        place.mkdir()
    run_stage(plan, 0, base, base, undisturbed)
    last = 1 if plan.stages[0].train.max_steps < 3 else 2
    if (child := os.fork()) == 0:
        try:
            Bar.on_train_batch_end = lambda self, trainer, *rest: (
                os.kill(os.getpid(), signal.SIGKILL) if trainer.global_step == last else None
            )
            run_stage(plan, 0, base, base, disturbed)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    steps = []
    monkeypatch.setattr(Bar, "on_train_batch_end", lambda self, trainer, *rest: steps.append(trainer.global_step))
    run_stage(plan, 0, base, base, disturbed)
    assert steps[0] == last + 1
    for name in WRITTEN:
        assert (undisturbed / name).read_bytes() == (disturbed / name).read_bytes(), name


@pytest.mark.parametrize("family", ["gpt2", "bart"])
@pytest.mark.parametrize("variant", ["prune/l0", "prune/l1", "prune/group_lasso"])
def test_trimming_compares_all_weights_where_the_file_says_so(variant, family, data, dense, tmp_path):
    plan = planned(family, data, *chosen(variant))
    assert plan.stages[0].methods[0].scope == "global"
    base = dense(plan)
    holders = owned(train_stage(plan, 0, base, base, tmp_path).model, variant, Mask)
    scores = [gate.log_alpha if variant == "prune/l0" else original(module).abs() for module, gate in holders]
    scores = [score.detach().double() for score in scores]
    kept = torch.cat([gate.mask.flatten() for _, gate in holders])
    total = kept.numel()
    if variant == "prune/group_lasso":
        axes = [0 if is_conv1d(module) else 1 for module, _ in holders]
        scores = [
            score.pow(2).mean(axis, keepdim=True).sqrt().expand_as(score)
            for score, axis in zip(scores, axes, strict=True)
        ]
        assert abs(int((~kept).sum()) - total / 2) <= 64 / 2
    else:
        assert int((~kept).sum()) == total // 2
    joined = torch.cat([score.flatten() for score in scores])
    assert joined[kept].min() >= joined[~kept].max() * (1 - 1e-6)
    shares = [float((~gate.mask).float().mean()) for _, gate in holders]
    assert max(shares) - min(shares) > 0.01


@pytest.mark.parametrize("variant", FIRST)
def test_what_begins_before_the_baseline_comes_first(variant, data):
    with pytest.raises(UserError, match="starts from the pretrained weights; put it first"):
        planned("bert", data, "method=prune", *chosen(variant, "prune2"))


@pytest.mark.parametrize("variant", UNDOING)
def test_what_would_undo_an_earlier_pruning_is_refused(variant, data):
    with pytest.raises(UserError, match=f"{variant} would undo the pruning before it; put it first"):
        planned("bert", data, f"method=[prune,{variant}]")


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("quant") and name != ROUNDING])
def test_nothing_trains_after_packed_weights(variant, data):
    with pytest.raises(UserError, match="nothing can follow .* packed; put .* last"):
        planned("bert", data, f"method=[{variant},finetune]")


@pytest.mark.parametrize("variant", PRUNING)
def test_no_pruning_follows_packed_weights(variant, data):
    reason = "starts from the pretrained weights; put it first" if variant in FIRST else "packed; put quant/.* last"
    with pytest.raises(UserError, match=f"^method\\.prune: [^\n]*{reason}$"):
        planned("bert", data, f"method=[quant,{variant}]", *chosen(variant)[1:])


def test_all_of_them_reload_with_equal_outputs_in_one_other_process(expected):
    code = Path(__file__).with_name("reload_child.py")
    answer = subprocess.run([sys.executable, str(code), str(expected)], capture_output=True, text=True, check=True)
    differences = json.loads(answer.stdout.splitlines()[-1])
    assert 0 < len(differences) == len(list(expected.glob("*.json")))
    assert max(differences.values()) == 0.0, differences


def test_every_way_of_storing_is_made_by_the_design(expected):
    paths = [Path(json.loads(file.read_text())["path"]) for file in expected.glob("*.json")]
    told = [json.loads((path / "config.json").read_text()).get("quantization_config", {}) for path in paths]
    assert {module["kind"] for one in told for module in one.get("modules", [])} == set(kinds())
    assert {codec for one in told for codec in one.get("tensors", {}).values()} == set(codecs())

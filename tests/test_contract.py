"""Every method file keeps the contract: it composes, trains, converts, reloads, resumes, shrinks, and stacks."""

from __future__ import annotations

import functools
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parametrize

from compress_exp.config.checks import UserError
from compress_exp.experiment.build import apply_stage, publish, run_stage, train_stage
from compress_exp.formats.artifact import load
from compress_exp.layers.stored import Stored
from compress_exp.layers.surgery import pruned_modules
from compress_exp.layers.weights import original
from compress_exp.methods.parametrized import Mask, owned
from compress_exp.models.families.base import is_conv1d
from compress_exp.models.forward import forward_outputs
from compress_exp.training.trainer import Bar
from tests.experiments import planned
from tests.variants import (
    FAMILIES,
    FILES,
    FIRST,
    LATE,
    PRUNING,
    SHRINKING,
    TRAINED,
    VARIANTS,
    chosen,
    fixed_batch,
    trained,
)

WRITTEN = ("model.safetensors", "config.json", "history.csv")
PAIRS = [(variant, family) for variant in VARIANTS for family in FAMILIES if family != "bart" or variant in PRUNING]
PAIRS += [
    (variant, family) for variant in ("finetune", "quant/static", "distill/hard") for family in ("albert", "bart")
]
PAIRS += [(v, "answers") for v in ("finetune", "quant/static", "distill/hidden", "prune/structured", "prune/wanda")]
PAIRS += [(variant, "albert") for variant in ("prune/magnitude", "prune/structured")]
LATEST = ("finetune", "quant/static", "quant/int8", *(f"prune/{name}" for name in ("magnitude", "heads", "structured")))
PAIRS += [(variant, family) for variant in (*LATEST, "prune/cofi") for family in ("electra", "llama")]
SCORES = [f"prune/{name}" for name in ("magnitude", "random", "gradient", "snip", "taylor")]  # else they are gradual
RESUMED = [
    (variant, family)
    for variant in TRAINED
    for family in (("gpt2", "bart") if variant in SCORES else ("bert", "gpt2", "t5"))
]
RESUMED += [("prune/movement", "answers")]
IF_ASKED = [("prune/wanda", "t5"), ("prune/sparsegpt", "bart"), ("prune/n_m", "gpt2"), ("prune/vocabulary", "t5")]
ROUNDING = "quant/bf16"  # what follows computes in float32 and is rounded again
ONE_BLOCK = ("model.architecture.num_layers=1", "model.architecture.num_decoder_layers=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="module")
def expected(place):
    """Logits that the reload test looks for, by artifact directory."""
    return place / "expected"


@pytest.fixture(scope="module")
def finished(place, data, dense):
    """`finished("bert", *overrides)`: the plan, what came of its stage, and where it is published; built once."""

    @functools.cache
    def finish(family, *overrides):
        plan = planned(family, data, *overrides)
        base = dense(plan)
        directory = Path(tempfile.mkdtemp(dir=place))
        built = apply_stage(plan, 0, base, base, directory)
        publish(built, directory)
        return plan, built, directory

    return finish


@pytest.fixture(scope="module")
def expect(place, expected):
    """Note an artifact with its outputs for the reload test; a plain one is to need no import of ours."""

    def note(name, built, directory, plain=False, outputs=("logits",)):
        with torch.no_grad():
            wanted = forward_outputs(built.model, fixed_batch(built.model), outputs)
        logits = {name: values.float().tolist() for name, values in wanted.items()}
        entry = {"path": str(directory), "plain": plain, "outputs": logits}
        expected.mkdir(exist_ok=True)
        (expected / f"{name}.json").write_text(json.dumps(entry))

    return note


@pytest.mark.parametrize(("variant", "family"), PAIRS)
def test_it_composes_trains_converts_and_is_published(variant, family, dense, finished, expect):
    plan, built, directory = finished(family, *chosen(variant))
    stage, base = plan.stages[0], dense(plan)
    assert stage.methods[0].name in (variant, *(f"{variant}/{part}" for part in (variant, "body")))
    assert not any(parametrize.is_parametrized(module) for module in built.model.modules())
    assert built.steps == (3 * stage.methods[0].course.trainings if stage.trains else 0)
    assert all(math.isfinite(value) for row in built.history for value in row.values())
    assert not built.history or built.history[-1]["step"] == built.steps - 1
    expect(f"{variant.replace('/', '.')}-{family}", built, directory, outputs=plan.task.outputs)
    kind = variant.partition("/")[0]
    if kind in ("prune", "quant") or (kind == "distill" and family != "albert"):
        assert (directory / "model.safetensors").stat().st_size < (base / "model.safetensors").stat().st_size
    else:
        assert (directory / "model.safetensors").stat().st_size == (base / "model.safetensors").stat().st_size


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
def test_what_is_uniform_is_an_ordinary_architecture(variant, family, overrides, finished, expect):
    _, built, directory = finished(family, *chosen(variant), *overrides)
    assert "quantization_config" not in json.loads((directory / "config.json").read_text())
    expect(f"plain-{variant.replace('/', '.')}-{family}", built, directory, plain=True)


@pytest.mark.parametrize(("variant", "family"), RESUMED + IF_ASKED)
def test_an_interrupted_run_ends_bit_identical(variant, family, place, data, dense, finished, monkeypatch):
    _, _, undisturbed = finished(family, *trained(variant))
    plan = planned(family, data, *trained(variant), "train.checkpoint_steps=1")
    base = dense(plan)
    disturbed = place / "disturbed" / f"{variant.replace('/', '.')}-{family}"
    disturbed.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(Bar, "on_train_batch_end", _die_at_step_two)
        with pytest.raises(Killed):
            run_stage(plan, 0, base, base, disturbed)
    steps = []
    monkeypatch.setattr(Bar, "on_train_batch_end", lambda self, trainer, *rest: steps.append(trainer.global_step))
    run_stage(plan, 0, base, base, disturbed)
    assert steps[0] == 2 + 1
    for name in WRITTEN:
        assert (undisturbed / name).read_bytes() == (disturbed / name).read_bytes(), name


class Killed(Exception):
    pass


def _die_at_step_two(self, trainer, *rest):
    if trainer.global_step == 2:
        raise Killed


LATER = [*RESUMED, *((v, f) for v in VARIANTS if v not in TRAINED for f in ("bert", "gpt2", "t5"))]


@pytest.mark.parametrize(("variant", "family"), [(v, f) for v, f in LATER if v not in FIRST])
def test_pruned_weights_stay_pruned_in_every_later_stage(variant, family, place, data, dense, store):
    overrides = [f"method=[prune,{variant}]"]
    if variant.startswith("prune"):
        sparsity = "0.5" if variant in (*SHRINKING, *LATE) else "0.7"
        more = [f"method.prune2.sparsity={sparsity}"] if "sparsity" in FILES[variant].read_text() else []
        overrides = ["method=prune", *chosen(variant, "prune2"), *more]
    plan = planned(family, data, *overrides)
    base = dense(plan)
    pruned = store.get(plan.stage_recipe(0), lambda d, check: run_stage(plan, 0, base, base, d), "prune")
    directory = place / "after" / f"{variant.replace('/', '.')}-{family}"
    directory.mkdir(parents=True)
    model = apply_stage(plan, 1, pruned, base, directory).model
    before, after = dict(pruned_modules(load(pruned))), dict(pruned_modules(model))
    smaller = variant in (*SHRINKING, *LATE) or variant.startswith("distill")
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


@pytest.mark.parametrize(("variant", "family"), [(v, f) for v, f in RESUMED + IF_ASKED if not v.startswith("distill")])
def test_it_learns_from_a_teacher(variant, family, place, data, dense):
    plan = planned(family, data, *trained(variant), "loss=soft_targets")
    base = dense(plan)
    directory = place / "teacher" / f"{variant.replace('/', '.')}-{family}"
    directory.mkdir(parents=True)
    history = apply_stage(plan, 0, base, base, directory).history
    assert {"hard", "soft", "loss"} <= set(history[0])
    terms = sum(history[0].get(name, 0.0) for name in ("hard", "soft", "penalty_prune"))
    assert history[0]["loss"] == pytest.approx(terms, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bart"])
@pytest.mark.parametrize("variant", ["prune/l0", "prune/l1", "prune/group_lasso"])
def test_trimming_compares_all_weights_where_the_file_says_so(variant, family, place, data, dense):
    plan = planned(family, data, *chosen(variant))
    assert plan.stages[0].methods[0].scope == "global"
    base = dense(plan)
    directory = place / "trimmed" / f"{variant.replace('/', '.')}-{family}"
    directory.mkdir(parents=True)
    holders = owned(train_stage(plan, 0, base, base, directory).model, variant, Mask)
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


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("quant") and name != ROUNDING])
def test_nothing_trains_after_packed_weights(variant, data):
    with pytest.raises(UserError, match="nothing can follow .* packed; put .* last"):
        planned("bert", data, f"method=[{variant},finetune]")


@pytest.mark.parametrize("variant", PRUNING)
def test_no_pruning_follows_packed_weights(variant, data):
    reason = "starts from the pretrained weights; put it first" if variant in FIRST else "packed; put quant/.* last"
    with pytest.raises(UserError, match=f"^method\\.prune: [^\n]*{reason}$"):
        planned("bert", data, f"method=[quant,{variant}]", *chosen(variant)[1:])


def test_all_of_them_reload_with_equal_outputs_in_one_other_process(place, expected):
    code = Path(__file__).with_name("reload_child.py")
    answer = subprocess.run([sys.executable, str(code), str(expected)], capture_output=True, text=True, check=True)
    differences = json.loads(answer.stdout.splitlines()[-1])
    assert 0 < len(differences) == len(list(expected.glob("*.json")))
    assert max(differences.values()) == 0.0, differences

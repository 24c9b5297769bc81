"""Every method file keeps the contract: it composes, trains, converts, reloads, resumes, shrinks, and stacks."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parametrize

from compress_exp.config import CONF, UserError
from compress_exp.export.artifact import load
from compress_exp.layers.int8 import Int8Linear
from compress_exp.layers.surgery import pruned_modules
from compress_exp.models.families.base import blocks, family_of, is_conv1d
from compress_exp.pipeline import apply_stage, publish, run_stage
from compress_exp.training.forward import forward_logits
from compress_exp.training.trainer import Bar
from tests.experiments import planned


def text_of(variant):
    return (CONF / "method" / f"{variant}.yaml").read_text()


VARIANTS = sorted(str(path.relative_to(CONF / "method").with_suffix("")) for path in (CONF / "method").rglob("*.yaml"))
ALIASES = {name for name in VARIANTS if any(other.startswith(name + "/") for other in VARIANTS)}
VARIANTS = [name for name in VARIANTS if name not in ALIASES]
FAMILIES = ("bert", "gpt2", "t5")
PAIRS = [(variant, family) for variant in VARIANTS for family in FAMILIES]
PAIRS += [
    (variant, family)
    for variant in ("finetune", "prune/magnitude", "prune/structured", "quant/static", "distill/hard")
    for family in ("albert", "bart")
]
PAIRS.append(("prune/layers", "bart"))
TRAINED = [name for name in VARIANTS if "max_steps: 0" not in text_of(name)]
RESUMED = [(variant, family) for variant in TRAINED for family in FAMILIES]
SETTINGS = {  # what three steps and small widths need
    "prune/block_movement": ["block=[8,8]"],
    "prune/lottery_ticket": ["rounds=2", "scope=tensor"],
    "prune/snip": ["scope=tensor"],
    "prune/vocabulary": ["minimum_count=60"],
    "prune/soft_movement": ["trim=true", "sparsity=0.5", "scope=tensor"],
    "prune/l0": ["trim=true", "sparsity=0.5", "scope=tensor"],
    "prune/l1": ["trim=true", "sparsity=0.5", "scope=tensor"],
    "prune/group_lasso": ["trim=true", "sparsity=0.5", "scope=tensor"],
}
FIRST = ("prune/lottery_ticket",)  # what begins before the baseline was trained
LATE = ("prune/cofi",)  # what changes shapes after training, which units being a result of it
SHRINKING = [f"prune/{name}" for name in ("heads", "neurons", "structured", "layers")]
FILES = ("model.safetensors", "config.json", "history.csv")


def chosen(variant, key=None):
    """The overrides that choose a variant."""
    family = variant.partition("/")[0]
    first = f"method={variant}" if key is None else f"+method@method.{key}={variant}"
    return [first, *(f"method.{key or family}.{item}" for item in SETTINGS.get(variant, ()))]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="module")
def expected(place):
    """Logits that the reload test looks for, by artifact directory."""
    return place / "expected"


def fixed_batch(model):
    ids = torch.arange(1, 25).view(2, 12) * 7 % (model.config.vocab_size - 5) + 5
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.flip(1)}


@pytest.mark.parametrize(("variant", "family"), PAIRS)
def test_it_composes_trains_converts_and_is_published(variant, family, place, data, dense, expected):
    plan = planned(family, data, *chosen(variant))
    stage = plan.stages[0]
    assert stage.methods[0].name in (variant, f"{variant}/{variant}")
    base = dense(plan)
    directory = place / f"{variant.replace('/', '.')}-{family}"
    directory.mkdir()
    built = apply_stage(plan, 0, base, base, directory)
    assert not any(parametrize.is_parametrized(module) for module in built.model.modules())
    assert built.steps == (3 * stage.methods[0].trainings if stage.trains else 0)
    assert all(math.isfinite(value) for row in built.history for value in row.values())
    assert not built.history or built.history[-1]["step"] == built.steps - 1
    with torch.no_grad():
        logits = forward_logits(built.model, fixed_batch(built.model)).float()
    publish(built, directory)
    expected.mkdir(exist_ok=True)
    (expected / f"{directory.name}.json").write_text(json.dumps({"path": str(directory), "logits": logits.tolist()}))
    kind = variant.partition("/")[0]
    if kind in ("prune", "quant") or (kind == "distill" and family != "albert"):
        assert (directory / "model.safetensors").stat().st_size < (base / "model.safetensors").stat().st_size
    else:
        assert (directory / "model.safetensors").stat().st_size == (base / "model.safetensors").stat().st_size


@pytest.mark.parametrize(("variant", "family"), RESUMED)
def test_an_interrupted_run_ends_bit_identical(variant, family, place, data, dense, monkeypatch):
    plan = planned(family, data, *chosen(variant), "train.checkpoint_steps=1")
    base = dense(plan)
    undisturbed = place / "undisturbed" / f"{variant.replace('/', '.')}-{family}"
    disturbed = place / "disturbed" / undisturbed.name
    for directory in (undisturbed, disturbed):
        directory.mkdir(parents=True)
    run_stage(plan, 0, base, base, undisturbed)
    with monkeypatch.context() as patch:
        patch.setattr(Bar, "on_train_batch_end", _die_at_step_two)
        with pytest.raises(Killed):
            run_stage(plan, 0, base, base, disturbed)
    run_stage(plan, 0, base, base, disturbed)
    for name in FILES:
        assert (undisturbed / name).read_bytes() == (disturbed / name).read_bytes(), name


class Killed(Exception):
    pass


def _die_at_step_two(self, trainer, *rest):
    if trainer.global_step == 2:
        raise Killed


@pytest.mark.parametrize(("variant", "family"), [(v, f) for v, f in PAIRS if f in FAMILIES and v not in FIRST])
def test_pruned_weights_stay_pruned_in_every_later_stage(variant, family, place, data, dense, store):
    overrides = [f"method=[prune,{variant}]"]
    if variant.startswith("prune"):
        sparsity = "0.5" if variant in (*SHRINKING, *LATE) else "0.7"
        more = [f"method.prune2.sparsity={sparsity}"] if "sparsity" in text_of(variant) else []
        overrides = ["method=prune", *chosen(variant, "prune2"), *more]
    plan = planned(family, data, *overrides)
    base = dense(plan)
    pruned = store.get(plan.stage_recipe(0), lambda d, check: run_stage(plan, 0, base, base, d), "prune")
    directory = place / "after" / f"{variant.replace('/', '.')}-{family}"
    directory.mkdir(parents=True)
    model = apply_stage(plan, 1, pruned, base, directory).model
    before, after = dict(pruned_modules(load(pruned))), dict(pruned_modules(model))
    if variant in SHRINKING:
        untrained = planned(family, data, *overrides, "method.prune2.train.max_steps=0")
        before = dict(pruned_modules(apply_stage(untrained, 1, pruned, base, directory).model))
    assert after
    for name, module in after.items():
        if variant.startswith("distill") or variant in LATE:
            assert float((module.weight == 0).float().mean()) >= 0.4
        else:
            turned = is_conv1d(before[name]) and isinstance(module, Int8Linear)
            zeros = before[name].weight.T == 0 if turned else before[name].weight == 0
            assert bool((module.weight == 0)[zeros].all()), name


@pytest.mark.parametrize(("variant", "family"), [(v, f) for v, f in RESUMED if not v.startswith("distill")])
def test_it_learns_from_a_teacher(variant, family, place, data, dense):
    plan = planned(family, data, *chosen(variant), "loss=soft_targets")
    base = dense(plan)
    directory = place / "teacher" / f"{variant.replace('/', '.')}-{family}"
    directory.mkdir(parents=True)
    history = apply_stage(plan, 0, base, base, directory).history
    assert {"hard", "soft", "loss"} <= set(history[0])
    terms = sum(history[0].get(name, 0.0) for name in ("hard", "soft", "penalty_prune"))
    assert history[0]["loss"] == pytest.approx(terms, rel=1e-5)


@pytest.mark.parametrize("variant", FIRST)
def test_what_begins_before_the_baseline_comes_first(variant, data):
    with pytest.raises(UserError, match="starts from the pretrained weights; put it first"):
        planned("bert", data, "method=prune", *chosen(variant, "prune2"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", [*SHRINKING, *LATE])
def test_smaller_models_are_quantized_at_once(variant, family, place, data, dense):
    plan = planned(family, data, f"method=[{variant},quant]", "stages=[[prune,quant]]")
    base = dense(plan)
    directory = place / "at-once" / f"{variant.replace('/', '.')}-{family}"
    directory.mkdir(parents=True)
    built = apply_stage(plan, 0, base, base, directory)
    dense_ones, packed = (
        [module for block in blocks(model, family_of(family)).values() for _, module in block.values()]
        for model in (load(base), built.model)
    )
    assert packed and all(isinstance(module, Int8Linear) for module in packed)
    assert sum(module.weight.numel() for module in packed) < 0.85 * sum(m.weight.numel() for m in dense_ones)
    publish(built, directory)
    with torch.no_grad():
        expected = forward_logits(built.model, fixed_batch(built.model))
        assert torch.equal(forward_logits(load(directory), fixed_batch(built.model)), expected)


MASKING = [name for name in TRAINED if name.startswith("prune") and name not in (*SHRINKING, *LATE)]


@pytest.mark.parametrize("variant", MASKING)
def test_pruning_and_quantization_at_once_leave_int8_weights_with_the_zeros(variant, place, data, dense):
    plan = planned("bert", data, f"method=[{variant},quant]", *chosen(variant)[1:], "stages=[[prune,quant]]")
    base = dense(plan)
    directory = place / "at-once" / variant.replace("/", ".")
    directory.mkdir(parents=True)
    model = apply_stage(plan, 0, base, base, directory).model
    pruned = [module for _, module in pruned_modules(model)]
    assert pruned and all(isinstance(module, Int8Linear) for module in pruned)
    zeros = sum(int((module.weight == 0).sum()) for module in pruned)
    assert zeros >= 0.49 * sum(module.weight.numel() for module in pruned)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("quant")])
def test_nothing_trains_after_packed_weights(variant, data):
    with pytest.raises(UserError, match="nothing can follow .* packed; put it last"):
        planned("bert", data, f"method=[{variant},finetune]")


def test_all_of_them_reload_with_equal_logits_in_one_other_process(place, expected):
    code = Path(__file__).with_name("reload_child.py")
    answer = subprocess.run([sys.executable, str(code), str(expected)], capture_output=True, text=True, check=True)
    differences = json.loads(answer.stdout.splitlines()[-1])
    assert 0 < len(differences) == len(list(expected.glob("*.json")))
    assert max(differences.values()) == 0.0, differences

"""Kept answers: what the plan decides, what the store holds, and that a killed training goes on with them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compress_exp.clean.leftovers import leftovers
from compress_exp.clean.references import Reader
from compress_exp.config.checks import UserError
from compress_exp.experiment.plan import disk_bytes
from compress_exp.outputs.files import digest
from compress_exp.run import run
from compress_exp.training.answers import FILE
from tests.experiments import configure, planned

SOFT = ("method=finetune", "loss=soft_targets")
ALWAYS = "teacher_cache.mode=always"


def test_a_stage_says_in_its_recipe_whether_it_reads_them(data):
    never = planned("bert", data, *SOFT)
    assert never.stage_recipe(0)["teacher"] == {"of": never.baseline_key}
    auto, always, halved, other = (
        planned("bert", data, *SOFT, *more)
        for more in (
            ["teacher_cache.mode=auto"],
            [ALWAYS, "teacher_cache.megabytes=7"],
            [ALWAYS, "teacher_cache.top_k=1"],
            [ALWAYS, "loss.soft_targets.temperature=3", "train.max_steps=3"],
        )
    )
    assert auto.recipes == always.recipes
    assert auto.stage_recipe(0)["teacher"] == {"of": never.baseline_key, "answers": digest(auto.answers[0])}
    assert halved.stage_recipe(0)["teacher"]["top_k"] == 1
    assert digest(halved.answers[0]) != digest(auto.answers[0])
    assert other.artifact_key != auto.artifact_key and other.answers == auto.answers  # one file for both
    assert planned("bert", data, "method=finetune", ALWAYS).recipes == planned("bert", data, "method=finetune").recipes


def test_answers_of_other_features_are_others(data):
    plain = planned("gpt2", data, *SOFT, ALWAYS)
    methods = ("method=[prune/vocabulary,finetune]", "loss=soft_targets")
    cut = planned("gpt2", data, *methods, "stages=[[prune,finetune]]", ALWAYS)
    after = planned("gpt2", data, *methods, ALWAYS)
    shorter = planned("gpt2", data, *SOFT, ALWAYS, "task.max_length=16")
    assert len({digest(plan.answers[0]) for plan in (plain, cut, shorter)}) == 3
    assert after.answers == [None, cut.answers[0]]  # the stage before it cut the vocabulary


def test_too_large_ones_are_not_kept(data):
    rows = sum(1 for _ in (data / "train.jsonl").open())
    plan = planned("bert", data, *SOFT, ALWAYS)
    assert plan.cache.size(plan.task, plan.vocabulary) == rows * (2 * 4 + 8)
    assert disk_bytes(plan, 1) - disk_bytes(planned("bert", data, *SOFT), 1) == rows * (2 * 4 + 8)
    small = "teacher_cache.megabytes=0.0001"
    assert (
        planned("bert", data, *SOFT, "teacher_cache.mode=auto", small).recipes == planned("bert", data, *SOFT).recipes
    )
    with pytest.raises(
        UserError, match=r"^teacher_cache\.mode: the answers may take 0 MB, more than teacher_cache\.meg"
    ):
        planned("bert", data, *SOFT, ALWAYS, small)


@pytest.mark.parametrize(
    ("family", "settings", "sentence"),
    [
        (
            "bert",
            ["method=finetune", "loss=hidden"],
            r"mode: finetune learns from the teacher's 'hidden', and only logit",
        ),
        ("answers", SOFT, "mode: answers of task=question_answering are places in the input, which are not kept"),
        (
            "gpt2",
            ["method=distill/on_policy"],
            "mode: .* learns from rows that it makes itself, and no answers to them",
        ),
        (
            "bert",
            [*SOFT, "teacher_cache.top_k=2"],
            "top_k: 2 is not below the 2 classes of task=classification; set it",
        ),
        ("bert", [*SOFT, "teacher_cache.top_k=0"], "top_k: 0 is not allowed, a number of at least 1 is"),
        ("bert", [*SOFT, "teacher_cache.top_k=1.5"], "top_k: 1.5 is not allowed, a whole number or null is"),
        ("bert", [*SOFT, "teacher_cache.mode=often"], "mode: 'often' is not allowed; .*never, auto, always"),
    ],
)
def test_what_cannot_be_kept_is_refused(family, settings, sentence, data):
    with pytest.raises(UserError, match=rf"^teacher_cache\.{sentence}"):
        planned(family, data, ALWAYS, *settings)


def test_they_are_kept_once_shown_and_not_cleaned_away(data, tmp_path, caplog):
    def command(*more):
        caplog.clear()
        run(configure("bert", data, *SOFT, ALWAYS, f"outputs={tmp_path}", *more))
        return caplog.text

    caplog.set_level("INFO", "compress_exp")
    asked = planned("bert", data, *SOFT, ALWAYS)
    place = tmp_path / "artifacts" / digest(asked.answers[0])
    told = command("plan=true")
    assert f"to be built: {place}" in " ".join(told.split())
    assert "answers for finetune" in command("until=1")
    assert json.loads((place / "recipe.json").read_text())["kind"] == "answers"
    written = (place / FILE).stat().st_mtime_ns
    assert f"is there: {place}" in " ".join(command("plan=true").split())
    command("until=1", "loss.soft_targets.temperature=3")
    assert (place / FILE).stat().st_mtime_ns == written

    def listed():
        return {item.path.name for item in leftovers(tmp_path, Reader(tmp_path).references())}

    assert place.name in listed()  # no record refers to the stages yet
    record = tmp_path / "runs" / "a" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"run": {"id": "a"}, "origin": {"artifact": asked.artifact_key}}))
    assert place.name not in listed() and len(listed()) == 1  # the other temperature's stage
    live = tmp_path / "live"
    run(configure("bert", data, *SOFT, f"outputs={live}", "until=1"))
    weights = load_file(live / "artifacts" / planned("bert", data, *SOFT).artifact_key / "model.safetensors")
    own = load_file(tmp_path / "artifacts" / asked.artifact_key / "model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(own[name], weight, rtol=0, atol=2e-5)


def test_a_killed_training_goes_on_with_them_bit_identically(data, tmp_path):
    settings = [*SOFT, ALWAYS, "train.max_steps=40", "train.checkpoint_steps=4", "until=1", "lease_seconds=2"]
    plan = planned("bert", data, *settings)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(configure("bert", data, *settings, f"outputs={whole}"))
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(data), str(killed), *settings], cwd=Path(__file__).parents[2]
    )
    partial = f"artifacts/{plan.artifact_key}.partial-*/state/*.ckpt"
    try:
        while not list(killed.glob(partial)):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not (killed / "artifacts" / plan.artifact_key).exists()
    answers = killed / "artifacts" / digest(plan.answers[0]) / FILE
    assert answers.read_bytes() == (whole / answers.relative_to(killed)).read_bytes()
    run(configure("bert", data, *settings, f"outputs={killed}"))
    for file in ("model.safetensors", "history.csv"):
        made = (place / "artifacts" / plan.artifact_key / file for place in (whole, killed))
        assert next(made).read_bytes() == next(made).read_bytes()


CHILD = """import sys
from pathlib import Path
from compress_exp.run import run
from tests.experiments import configure
data, outputs, *settings = sys.argv[1:]
run(configure("bert", Path(data), *settings, f"outputs={outputs}"))"""

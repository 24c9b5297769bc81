"""Mistakes on the command line: one sentence on stderr, exit code 1, no traceback, and nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from compress_exp.config.schema import CONF
from compress_exp.config.train import TrainConfig
from compress_exp.formats.artifact import save

ROOT = CONF.parent


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "compress_exp", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["metod=prune"], ["metod: there is no key", "did you mean method"]),
        (["+metod=prune"], ["metod: there is no such key; did you mean method"]),
        (["modle@x=bert"], ["modle: there is no such group; did you mean model"]),
        (
            ["method=prun"],
            ["method=prun: there is no such choice; did you mean prune", "distill, factorize, finetune"],
        ),
        (["method=[prune,quan]"], ["method=quan: there is no such choice; did you mean quant"]),
        (
            ["method=quant/int4"],
            ["did you mean quant/int8", "allowed: quant/bf16, quant/gptq, quant/int8"],
        ),
        (["method=magnitude"], ["did you mean prune/magnitude"]),
        (["method=prune", "sparsity=0.8"], ["there is no key 'sparsity'; did you mean method.prune.sparsity?"]),
        (["epochs=3"], ["did you mean task.epochs or train.epochs?"]),
        (["model=brt"], ["model=brt", "did you mean", "bert"]),
        (["+model@method.distill.student=t5_smal", "method=distill"], ["did you mean t5_small"]),
        (["hydra/launcher=slrm"], ["hydra/launcher=slrm: there is no such choice"]),
        (["experiment=famlies"], ["did you mean families"]),
        (["method.prune.sparsty=0.5"], ["no key 'sparsty' in method.prune; did you mean sparsity"]),
        (["method=quant", "method.prune.sparsity=0.5"], ["no key 'prune' in method with method=quant; allowed: quant"]),
        (["train.epohs=2"], ["did you mean epochs"]),
        (["train.epochs.x=2"], ["train.epochs.x"]),
        (["~method.x"], ["no key 'x' in method"]),
        (["~train"], ["train: a group needs one of its choices; allowed: default"]),
        (["method=[]"], ["method: a group needs one of its choices; allowed: distill"]),
        (["train=null"], ["train=null"]),
        (["+seed=3"], ["seed: it is there already, write it without '+'"]),
        (["+model=bert"], ["model: it is there already, write it without '+'"]),
        (["seed=abc"], ["seed=abc: Value 'abc'", "Integer"]),
        (["method=prune,quant"], ["method=prune,quant: several values need -m"]),
        (["method==prune"], ["'method==prune' cannot be read as key=value"]),
        (["method='prune"], ["a quote is not closed"]),
        (["method"], ["'method' cannot be read as key=value"]),
        (["--sweep"], ["unrecognized arguments: --sweep"]),
        (["--config-dir", "/nowhere"], ["--config-dir: '/nowhere' is not a directory"]),
        (["-m", "method=prune,quan"], ["method=quan: there is no such choice"]),
        (["-m", "sed=1,2"], ["sed: there is no key 'sed'; did you mean seed"]),
        (["-m", "method=glob(fold/*)"], ["nothing matches, so there would be no run; allowed: distill"]),
        (["outputs=/proc/none"], ["outputs: nothing can be written in '/proc/none'"]),
        (["outputs=/etc/hostname", "-m", "seed=0,1"], ["outputs: nothing can be written in '/etc/hostname'"]),
    ],
)
def test_one_sentence(arguments: list[str], parts: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    assert [part for part in parts if part not in done.stderr] == []


def test_the_real_command_for_a_wrong_key() -> None:
    done = command("method.prune.sparsty=0.5")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "method.prune.sparsty: there is no key 'sparsty' in method.prune; did you mean sparsity?"
    )
    assert "Traceback" not in done.stderr


def test_the_real_command_for_a_wrong_value_in_a_sweep(tmp_path: Path) -> None:
    done = command("-m", "method=prune", "method.prune.sparsity=2,3", f"outputs={tmp_path}")
    assert done.returncode == 1
    for value in (2, 3):
        assert f"method.prune.sparsity: {value}.0 is not allowed, a number between 0 and 0.999 is" in done.stdout
    assert done.stdout.count("refused: ") == 2
    assert "2 of 2 runs failed" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_real_command_for_a_teacher_that_is_not_whole(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    save(tiny("bert"), PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), teacher)
    tensors = load_file(teacher / "model.safetensors")
    tensors["pooler"] = tensors.pop("bert.pooler.dense.weight")
    save_file(tensors, teacher / "model.safetensors", metadata={"format": "pt"})
    done = command("method=prune", "loss=soft_targets", f"teacher={teacher}", f"outputs={tmp_path / 'outputs'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"artifact: {teacher} does not hold the model of its config.json (bert.pooler.dense.weight is missing, "
        "pooler is not expected); copy both again, or build the artifact anew\n"
    )
    assert not list((tmp_path / "outputs").rglob("*.safetensors"))


def test_planning_a_sweep_leaves_nothing_behind(tmp_path: Path) -> None:
    done = command("-m", "method=prune", "seed=0,1", "plan=true", f"outputs={tmp_path}")
    assert done.returncode == 0 and done.stdout.count("to be built") == 4
    assert not list(tmp_path.iterdir())


def test_a_broken_configuration_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("seed: [1\n")
    done = command("--config-dir", str(tmp_path), "experiment=mine")
    assert done.returncode == 1
    error = done.stderr
    assert "not valid YAML" in error
    assert error.count("\n") == 1


def test_help_and_mistakes_import_nothing_heavy() -> None:
    code = """
import sys
from compress_exp.cli.main import main
assert main(["--help"]) == 0 and main(["metod=prune"]) == 1 and main(["method=prun"]) == 1
heavy = {"torch", "transformers", "lightning", "datasets", "evaluate", "pandas", "wandb", "openvino", "numpy"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == "[]"
    for group in ("hardware:", "loss:", "method:", "model:", "task:", "tracking:", "train:", "experiment:"):
        assert f"\n  {group}" in done.stdout
    assert "prune, prune/block_movement" in done.stdout
    assert done.stdout.count("  python -m compress_exp ") == 12


def test_an_experiment_that_is_a_sweep_needs_no_flag(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {method.prune.sparsity: '2,3'}}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    common = ["--config-dir", str(tmp_path), "experiment=mine", f"outputs={tmp_path}"]
    for extra in ([], ["seed=0,1"]):
        done = command(*common, *extra)
        assert done.returncode == 1
        assert f"of {2 * max(1, 2 * len(extra))} runs failed" in done.stdout


def test_configurations_are_printed_without_running() -> None:
    done = command("--cfg", "job", "--resolve", "-p", "train", "train.epochs=7")
    assert yaml.safe_load(done.stdout)["epochs"] == 7


def test_a_method_s_budget_has_the_keys_of_the_root_s() -> None:
    names = {"_target_", *(item.name for item in fields(TrainConfig))}
    default, inherit = (
        yaml.safe_load((CONF / "train" / f"{name}.yaml").read_text()) for name in ("default", "inherit")
    )
    assert set(default) == names
    assert inherit == {name: f"${{train.{name}}}" for name in names}


def test_both_loggings_are_the_same() -> None:
    texts = [(CONF / "hydra" / group / "plain.yaml").read_text() for group in ("job_logging", "hydra_logging")]
    assert texts[0] == texts[1]

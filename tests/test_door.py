"""The package's own functions: the store and the sentences of the command line, and a notebook left as it was."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import getbase
from safetensors.torch import load_file

import compress_exp
from compress_exp.cli.main import main
from compress_exp.config.checks import UserError
from compress_exp.notebook.compress import Compressed
from tests.experiments import write_data

SIZES = ["model.vocabulary=320", "model.architecture.hidden_size=32", "model.architecture.num_hidden_layers=2"]
TIMING = ["hardware.lengths=[16]", "hardware.batch_sizes=[1]", "hardware.rounds=5", "hardware.seconds=0"]
TRAINING = ["train.threads=1", "train.max_steps=3", "task.max_length=32", "tracking=disabled"]
SMALL = [*TRAINING, *TIMING, *SIZES]
PIPELINE = ["prune/magnitude", "quant/bf16"]


def state() -> list[Any]:
    """What a notebook shares with everything that it calls."""
    hydra = [GlobalHydra.instance().hydra, HydraConfig.instance().cfg, getbase()]
    return [*hydra, torch.get_num_threads(), torch.get_rng_state().tolist()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of own data, and of results."""
    root = tmp_path_factory.mktemp("door")
    write_data(root / "data")
    (root / "conf").mkdir()
    return root


@pytest.fixture(scope="module")
def built(place: Path) -> Compressed:
    """One stage, built while the notebook uses Hydra for something else."""
    with initialize_config_dir(str(place / "conf"), version_base="1.2"):
        torch.set_num_threads(2)
        torch.manual_seed(5)
        before = state()
        result = compress_exp.compress("tiny_bert", PIPELINE[0], place / "data", place / "outputs", SMALL)
        assert state() == before
    return result


@pytest.fixture(scope="module")
def measured(built: Compressed, place: Path) -> Compressed:
    """The whole pipeline."""
    overrides = ["hardware=cpu_eager", *SMALL]
    data, outputs = place / "data", place / "outputs"
    return compress_exp.compress("tiny_bert", PIPELINE, data, outputs, overrides, measure=True)


def builds(place: Path) -> list[str]:
    rows = (place / "outputs" / "artifacts" / "builds.jsonl").read_text().splitlines()
    return [json.loads(row)["key"] for row in rows]


def test_either_goes_on_with_what_the_other_built(built: Compressed, place: Path) -> None:
    line = ["model=tiny_bert", f"method=[{','.join(PIPELINE)}]", "task=classification", "until=2", *SMALL]
    assert main([*line, f"task.data_dir={place / 'data'}", f"outputs={place / 'outputs'}"]) == 0
    before = builds(place)
    found = compress_exp.compress("tiny_bert", PIPELINE, place / "data", place / "outputs", SMALL)
    assert builds(place) == before == [built.baseline.name, built.path.name, found.path.name]
    assert found.record is None


def test_the_command_line_finds_the_record_of_a_call(built: Compressed, measured: Compressed, place: Path) -> None:
    assert built.record is None and measured.record is not None
    words = shlex.split(measured.record["run"]["command"])
    assert words == ["python", "-m", "compress_exp", *measured.record["run"]["overrides"]]
    (file,) = (place / "outputs" / "runs").glob("*/record.json")
    content = file.read_bytes()
    assert json.loads(content) == measured.record
    assert main(words[3:]) == 0
    assert file.read_bytes() == content
    frame = compress_exp.records(place / "outputs")
    assert frame.to_csv(index=False) == (place / "outputs" / "reports" / "table.csv").read_text()
    assert list(frame["run"]) == ["baseline", "prune/magnitude → quant/bf16"]
    files = ("model.safetensors", "config.json")
    assert frame["artifact_bytes"][1] == sum((measured.path / name).stat().st_size for name in files)


def test_the_loaded_model_holds_what_is_on_disk(built: Compressed) -> None:
    loaded, other = built.load(), compress_exp.load(built.path)
    assert not loaded.training
    zeros = sum(int((tensor == 0).sum()) for tensor in loaded.state_dict().values())
    assert zeros > 0.2 * sum(tensor.numel() for tensor in loaded.state_dict().values())
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_measure_tells_what_the_record_tells(measured: Compressed, place: Path) -> None:
    record = measured.record
    assert record is not None
    files = sorted(place.rglob("*"))
    blocks = compress_exp.measure(measured, hardware="cpu_eager")
    assert sorted(place.rglob("*")) == files
    assert set(blocks) == {"quality", "size", "latency", "memory", "energy", "runtime", "flags"}
    assert blocks["size"] == record["size"]
    assert blocks["quality"] == record["quality"]
    assert blocks["runtime"] == record["run"]["runtime"]
    assert blocks["latency"]["p50_ms"] > 0


def test_force_builds_again_at_every_call(place: Path, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    for calls in (1, 2):
        overrides = [*SMALL, "force=all"]
        compress_exp.compress("tiny_bert", PIPELINE[1], place / "data", tmp_path / "outputs", overrides)
        assert len(builds(tmp_path)) == 2 * calls


def test_an_own_artifact_is_a_baseline_as_it_is(built: Compressed, place: Path, tmp_path: Path) -> None:
    data, outputs = place / "data", tmp_path / "outputs"
    result = compress_exp.compress(str(built.baseline), PIPELINE[1], data, outputs, TRAINING)
    assert result.baseline != built.baseline
    own, dense = (load_file(path / "model.safetensors") for path in (result.baseline, built.baseline))
    assert own.keys() == dense.keys() and all(torch.equal(own[name], dense[name]) for name in own)
    with pytest.raises(UserError, match=r"^model\.path: '.*' is compressed already; give the dense weights$"):
        compress_exp.compress(built.path, PIPELINE[1], data, outputs, TRAINING)


def test_a_path_may_have_any_name(built: Compressed, place: Path) -> None:
    odd = place / "it's 1,2 = [a] (b) {c}\\"
    shutil.copytree(place / "data", odd)
    assert compress_exp.compress("tiny_bert", PIPELINE[0], odd, place / "outputs", SMALL).path == built.path


WRONG = [
    ("tiny_brt", "prune", "classification", []),
    ("tiny_bert", "prun", "classification", []),
    ("tiny_bert", "prune,quant", "classification", []),
    ("tiny_bert", "prune", "sst", []),
    ("tiny_bert", "prune", "classification", ["method.prune.sparsty=0.5"]),
    ("tiny_bert", "prune", "classification", ["method.prune.sparsity=2"]),
    ("tiny_bert", "prune", "language_modelling", []),
    ("tiny_bert", "prune", "classification", ["sed=1"]),
    ("tiny_bert", "prune", "classification", ["seed"]),
    ("tiny_bert", "prune", "classification", ["train=null"]),
]


@pytest.mark.parametrize(("model", "method", "task", "overrides"), WRONG)
def test_a_mistake_is_told_in_the_sentence_of_the_command_line(
    model: str, method: str, task: str, overrides: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as error:
        compress_exp.compress(model, method, task, tmp_path / "python", overrides)
    named = [f"model={model}", f"method={method}", f"task={task}", f"outputs={tmp_path / 'line'}"]
    assert main([*named, *overrides]) == 1
    assert capfd.readouterr().err.replace("line", "python") == f"{error.value}\n".replace("line", "python")
    assert not list(tmp_path.glob("*/artifacts/*"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["outputs=x"], "outputs=x: give outputs as an argument, not among the overrides"),
        (["plan=true"], "plan=true: compress builds; the command line shows a plan"),
        (["until=1"], "until=1: compress builds the whole chain; give fewer methods"),
        (["hydra/launcher=slurm"], "hydra/launcher=slurm: only the command line takes keys of hydra"),
        ("seed=1", "overrides: a list is needed, as in ['seed=1']"),
    ],
)
def test_what_a_call_cannot_obey_is_refused(overrides: Sequence[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        compress_exp.compress("tiny_bert", "prune", "classification", tmp_path, overrides)
    assert str(error.value) == sentence


def test_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="experiment=pruning: this is a sweep; the command line runs it$"):
        compress_exp.compress("tiny_bert", "prune", "classification", tmp_path, ["experiment=pruning"])


def test_measure_refuses_what_it_cannot_compare(built: Compressed, place: Path, tmp_path: Path) -> None:
    def refused(
        artifact: Compressed | Path, sentence: str, task: str | None = None, overrides: Sequence[str] = ()
    ) -> None:
        with pytest.raises(UserError, match=sentence):
            compress_exp.measure(artifact, task=task, overrides=overrides)

    refused(built.path, "^task: name what a path is evaluated on")
    refused(built.path, "^model: a model of kind encoder cannot do task=language_modelling", "language_modelling")
    refused(built, "^seed=1: measuring takes keys of task and hardware only", overrides=["seed=1"])
    refused(built, "^hardware.threads: '?100000'? is", overrides=["hardware.threads=100000"])
    copy = shutil.copytree(built.path, tmp_path / "copy")
    refused(copy, "^artifact: '.*copy' is not in a store", "classification")
    alone = shutil.copytree(built.path, tmp_path / "artifacts" / built.path.name)
    refused(alone, f"^artifact: '.*{built.baseline.name}', from which .* was made, is gone", "classification")
    (alone / "config.json").write_text("{")
    refused(alone, "^artifact: '.*' is damaged, config.json is truncated", "classification")


def test_records_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^outputs: there are no finished runs in "):
        compress_exp.records(tmp_path)


def test_importing_is_light_and_the_log_is_left_alone(built: Compressed, place: Path) -> None:
    code = f"""
import sys
import compress_exp
heavy = {{"torch", "transformers", "hydra", "omegaconf", "pandas", "numpy", "dataclasses", "logging"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import logging
result = compress_exp.compress("tiny_bert", {PIPELINE[0]!r}, {str(place / "data")!r}, "outputs", {SMALL!r})
assert not logging.getLogger().handlers and not logging.getLogger("compress_exp").handlers
import compress_exp.measurement.measure
assert callable(compress_exp.measure)
print(result.path.resolve())
"""
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{built.path.resolve()}\n", "")


def test_no_room_takes_the_name_of_a_function() -> None:
    package = Path(compress_exp.__file__).parent
    for name in ("load", "compress", "measure", "records"):
        assert callable(getattr(compress_exp, name))
        assert not [*package.glob(f"{name}.py"), *package.glob(f"{name}/**/*.py")]  # a cache alone may be left over

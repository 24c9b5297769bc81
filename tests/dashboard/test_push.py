"""Records that were never shown are sent once, whatever else is still there of their runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress_exp.config.schema import CONF
from compress_exp.dashboard.__main__ import main
from compress_exp.outputs.lease import leased
from compress_exp.tracking.wandb import WandbTracking
from tests.tracking.wandb_server import WANDB_KEY, Wandb

KEYS = ("0123456789abcdef", "fedcba9876543210")
SMALL = [
    *("train.threads=1", "train.max_steps=3", "model.vocabulary=320", "task.max_length=32"),
    *("model.architecture.hidden_size=32", "model.architecture.num_hidden_layers=2"),
    *("hardware.lengths=[16]", "hardware.batch_sizes=[1]", "hardware.rounds=5", "hardware.seconds=0.2"),
]


def record(outputs: Path, name: str, quality: float, **blocks: Any) -> Path:
    """A finished run that nobody has shown."""
    directory = outputs / "runs" / name
    directory.mkdir(parents=True)
    run = {
        "id": name,
        "name": f"named-{name}",
        "model": "m",
        "task": "t",
        "method": ["prune"],
        "hardware": "cpu",
        "seed": 0,
    }
    content = {"run": run | {"overrides": ["seed=0"]}, "quality": {"primary": {"value": quality}}, "size": {}}
    content |= {"latency": {"p50_ms": 2.0, "rows": [{"p50_ms": 2.0}]}} | blocks
    (directory / "record.json").write_text(json.dumps(content))
    return directory


def artifact(outputs: Path, key: str, losses: list[float]) -> None:
    directory = outputs / "artifacts" / key
    directory.mkdir(parents=True)
    text = "\n".join(["step,loss", *(f"{step},{loss}" for step, loss in enumerate(losses))])
    (directory / "history.csv").write_text(text)
    files = {"history.csv": len(text)}
    (directory / "build.json").write_text(json.dumps({"files": files, "steps": len(losses)}))


def push(capsys: pytest.CaptureFixture[str], outputs: Path) -> tuple[int, str]:
    code = main(["--push", f"outputs={outputs}"])
    return code, capsys.readouterr().out


def test_what_w_and_b_lacks_is_sent_once(server: Wandb, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = tmp_path / "out"
    for key, losses in zip(KEYS, ([0.5, 0.25], [0.125]), strict=True):
        artifact(outputs, key, losses)
    record(outputs, "whole", 0.9, origin={"baseline": KEYS[0]}, stages=[{"artifact": KEYS[1]}])
    record(outputs, "gone", 0.8, origin={"baseline": KEYS[0]}, stages=[{"artifact": "0" * 16}])
    record(outputs, "outside", 0.7, origin={"baseline": "../../x"}, stages=None)
    (outputs / "runs" / "broken").mkdir()
    (outputs / "runs" / "broken" / "record.json").write_text("{")
    assert push(capsys, outputs) == (0, "3 runs were sent, 0 were not, 0 were there\n")
    assert {name: run.summary["quality/primary"] for name, run in server.runs.items()} == {
        "whole": 0.9,
        "gone": 0.8,
        "outside": 0.7,
    }
    rows = [(row["_step"], row["loss"], row["stage"]) for row in server.runs["whole"].rows if "loss" in row]
    assert rows == [(0, 0.5, 0), (1, 0.25, 0), (2, 0.125, 1)]
    assert not [row for name in ("gone", "outside") for row in server.runs[name].rows if "loss" in row]
    assert server.runs["whole"].config["cfg"]["value"] == {"overrides": ["seed=0"]}
    asked = len(server.asked)
    assert push(capsys, outputs) == (0, "0 runs were sent, 0 were not, 3 were there\n")
    assert len(server.asked) == asked


def test_what_waits_offline_is_sent_and_what_was_synced_is_not(
    server: Wandb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "out"
    for name in ("waiting", "synced"):
        directory = record(outputs, name, 0.5)
        content = json.loads((directory / "record.json").read_text())
        WandbTracking(mode="offline").log(content, [], {}, directory)
    (session,) = (outputs / "wandb").glob("offline-run-*-synced")
    command = [sys.executable, "-m", "wandb", "sync", str(session)]
    subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=outputs)
    assert list(server.runs) == ["synced"]
    assert push(capsys, outputs) == (0, "1 runs were sent, 0 were not, 1 were there\n")
    assert set(server.runs) == {"synced", "waiting"}


def test_what_is_worked_on_and_what_cannot_be_sent_is_said(
    server: Wandb, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    outputs = tmp_path / "out"
    directory = record(outputs, "busy", 0.5)
    with leased(directory, 60, "x"):
        assert push(capsys, outputs) == (1, "0 runs were sent, 1 were not, 0 were there\n")
    assert "busy: left out, " in caplog.text and not server.runs
    record(outputs, "later", 0.5)
    server.gone_from = "RunResumeStatus"
    assert main(["--push", f"outputs={outputs}"]) == 1
    assert capsys.readouterr().err == "the server is lost after 0 of 2 runs; the same command goes on\n"


def test_a_real_sweep_is_one_group_and_nothing_of_it_tells_the_key(server: Wandb, tmp_path: Path, data: Path) -> None:
    outputs = tmp_path / "out"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def call(*arguments: str) -> str:
        line = [sys.executable, "-m", *arguments, f"outputs={outputs}"]
        done = subprocess.run(line, capture_output=True, text=True, cwd=CONF.parent, env=environment)
        assert done.returncode == 0, done.stderr
        assert WANDB_KEY not in done.stdout + done.stderr
        return done.stdout

    call("compress_exp", "-m", "method=finetune", f"task.data_dir={data}", *SMALL)
    (sweep,) = (outputs / "sweeps").iterdir()
    (directory,) = (outputs / "runs").iterdir()
    content = json.loads((directory / "record.json").read_text())
    (sent,) = server.runs.values()
    assert sent.group == sweep.name and list(server.runs) == [content["run"]["id"]]
    assert not [item for item in content["run"]["overrides"] if sweep.name in item]
    assert sent.summary["size/artifact_bytes"] == content["size"]["artifact_bytes"]
    assert sent.summary["latency/p50_ms"] == content["latency"]["rows"][0]["p50_ms"]
    steps = [row["_step"] for row in sent.rows if "loss" in row]
    assert steps == sorted(set(steps)) and steps[-1] == 3 + 3 - 1  # baseline, then stage
    curves = [row.get("loss") for row in sent.rows]
    assert "0 runs were sent, 0 were not, 1 were there" in call("compress_exp.dashboard", "--push")
    server.runs.clear()
    again = call("compress_exp.dashboard", "--push", "tracking.project=another")
    assert "1 runs were sent, 0 were not, 0 were there" in again
    (sent,) = server.runs.values()
    assert [row.get("loss") for row in sent.rows] == curves and sent.group == sweep.name

"""A sweep of six on a real SLURM: a job requeued, one cancelled, a node and the parent killed, the command again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import ROOT, Parent
from tests.cluster.slurm import Cluster, wait_for

pytestmark = pytest.mark.slurm

SMALL = [
    *("train.threads=1", "train.max_steps=500", "train.checkpoint_steps=10", "tracking=disabled"),
    *("model.vocabulary=320", "model.architecture.hidden_size=32", "model.architecture.num_hidden_layers=2"),
    *("task.max_length=32", "hardware.lengths=[16]", "hardware.batch_sizes=[1]", "hardware.rounds=5"),
    "hardware.seconds=0",
]
ONE, TWO = "prune,distill,quant/bf16,quant/static", "[prune,quant/bf16],[distill,quant/bf16]"
FILES = ("model.safetensors", "config.json", "recipe.json", "history.csv")


@pytest.fixture
def undisturbed(tmp_path: Path) -> Path:
    """The same artifacts, built by one process without SLURM; nothing is measured."""
    outputs = tmp_path / "local"
    for until, methods in ((1, ONE), (2, TWO)):
        arguments = [f"method={methods}", f"until={until}", f"outputs={outputs}", *SMALL]
        line = [sys.executable, "-m", "compress_exp", "-m", *arguments]
        subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    return outputs


def in_training(outputs: Path, label: str, method: str, level: int) -> str:
    """Wait until a stage of a method's run has a checkpoint; the SLURM job that trains it."""

    def jobs() -> list[str]:
        members = [row for sweep in read(outputs, "sweeps/*/sweep.json") for row in sweep["members"]]
        keys = {row["chain"][level] for row in members if f"method={method}" in row["overrides"]}
        saved = [path for key in keys for path in outputs.glob(f"artifacts/{key}.partial-*/**/checkpoint.ckpt")]
        working = [row["job"] for row in read(outputs, "runs/*/status.json") if row["stage"] == label]
        return [job for job in working if job is not None and saved]

    wait_for(lambda: bool(jobs()), lambda: f"{label} does not train: {(outputs.parent / 'log').read_text()}", 120)
    return jobs()[0]


def read(outputs: Path, pattern: str) -> list[dict[str, Any]]:
    """Files that come and go."""
    found = []
    for path in outputs.glob(pattern):
        with suppress(FileNotFoundError):
            found.append(json.loads(path.read_text()))
    return found


def artifacts(outputs: Path) -> dict[str, Path]:
    places = (outputs / "artifacts").iterdir()
    return {place.name: place for place in places if place.is_dir() and not place.name.startswith(".")}


def test_nothing_is_lost_and_nothing_is_built_twice(
    cluster: Cluster, parent: Parent, tmp_path: Path, undisturbed: Path
) -> None:
    cluster.environment["TMPDIR"] = str(tmp_path)  # a lock of its own for measuring; no time is looked at here
    outputs, log, third = tmp_path / "cluster", tmp_path / "log", tmp_path / "third"
    command = ["compress_exp", "-m", f"method={ONE},{TWO}", f"outputs={outputs}", *SMALL, "hydra/launcher=slurm"]
    first = parent(log, *command)

    requeued = in_training(outputs, "baseline", "prune", 0)
    cluster.command("scontrol", "requeue", requeued)
    cancelled = in_training(outputs, "distill/soft_targets", "distill", 1)
    cluster.command("scancel", cancelled)
    moved = in_training(outputs, "prune/gradual", "prune", 1)
    cluster.kill_node(cluster.command("squeue", "-h", "-j", moved, "-o", "%N").strip())
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not list(outputs.glob("runs/*/record.json"))

    second = parent(log, *command)
    assert second.wait(300) == 0, log.read_text()
    assert len(list(outputs.glob("runs/*/record.json"))) == 6
    rows = (outputs / "artifacts" / "builds.jsonl").read_text().splitlines()
    builds = Counter(json.loads(row)["key"] for row in rows)
    assert set(builds.values()) == {1}
    mine, others = artifacts(outputs), artifacts(undisturbed)
    assert builds.keys() == mine.keys() == others.keys()
    for key, place in mine.items():
        for name in FILES:
            assert (place / name).read_bytes() == (others[key] / name).read_bytes(), (key, name)
    said = [line for path in outputs.glob("slurm/*/*.out") for line in path.read_text().splitlines()]
    assert {line.split(":")[0] for line in said if "going on" in line} == {
        "baseline",
        "distill/soft_targets",
        "prune/gradual",
    }
    assert not [*outputs.glob("**/*.lease"), *outputs.glob("runs/*/status.json")]
    assert parent(third, *command).wait(120) == 0
    assert "6 of 6 runs are finished" in third.read_text() and "SLURM" not in third.read_text()

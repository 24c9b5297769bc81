"""The files in examples/ run as their first lines say, at a tiny size, and end in what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SMALL = [
    *("train.threads=1", "tracking=disabled", "model.vocabulary=320", "task.max_length=32", "hardware=cpu_eager"),
    *("model.architecture.hidden_size=32", "model.architecture.num_hidden_layers=2"),
    *("hardware.lengths=[16]", "hardware.batch_sizes=[1]", "hardware.rounds=5", "hardware.seconds=0.1"),
]
NAMES = ("own_data.py", "compare_pruning.sh", "predict.py")


def ran(place: Path, *command: str) -> str:
    """What a command prints in a directory of its own, with the interpreter of the tests as `python`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PATH": path}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def records(place: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(place.glob("outputs/runs/*/record.json"))]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Own data, learned well enough to tell the classes apart."""
    place = tmp_path_factory.mktemp("own")
    ran(place, sys.executable, str(EXAMPLES / "own_data.py"), *SMALL, "train.epochs=10")
    return place


def test_every_example_is_run_here():
    assert {file.name for file in EXAMPLES.iterdir() if file.is_file()} == set(NAMES)


def test_own_data_becomes_an_int8_model(own):
    (record,) = records(own)
    assert record["run"]["method"] == ["quant/static"] and record["quality"]["rows"] == 100
    assert record["quality"]["settings"]["classes"] == ["bad", "good"]
    assert record["quality"]["primary"]["value"] > 0.9


def test_the_artifact_tells_good_from_bad(own):
    texts = [
        "The manual was clear, and the screen was reliable too.",
        "The battery was broken, and the manual was slow too.",
    ]
    lines = ran(own, sys.executable, str(EXAMPLES / "predict.py"), "outputs", *texts).splitlines()
    assert [line.split()[0] for line in lines] == ["good", "bad"]
    assert all(line.endswith(text) for line, text in zip(lines, texts, strict=True))


def test_two_ways_of_pruning_are_compared(tmp_path):
    settings = [*SMALL, "train.max_steps=8", "task.train_fraction=0.1"]
    printed = ran(tmp_path, "sh", str(EXAMPLES / "compare_pruning.sh"), *settings)
    assert sorted(record["run"]["method"][0] for record in records(tmp_path)) == ["prune/magnitude", "prune/random"]
    assert len({record["size"]["sparsity"] for record in records(tmp_path)}) == 1
    assert "prune/magnitude" in printed and "prune/random" in printed

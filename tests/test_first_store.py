"""A store of the first format, made by an early revision, stays readable: `data/first_store`, kept as it was written.

Its runs are `method=[prune,quant/static],distill` on a tiny model; `logits.json` is what the code said that wrote it.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import compress_exp
from compress_exp.report.card import complete

KEPT = Path(__file__).parent / "data" / "first_store"


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    place = tmp_path / "outputs"
    shutil.copytree(KEPT, place)
    return place


def ask(module: str, *arguments: str) -> str:
    line = [sys.executable, "-m", f"compress_exp.{module}", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("key", json.loads((KEPT / "logits.json").read_text())["logits"])
def test_its_artifacts_load_as_what_they_were(key: str) -> None:
    expected = json.loads((KEPT / "logits.json").read_text())
    with torch.no_grad():
        logits = compress_exp.load(KEPT / "artifacts" / key).eval()(torch.tensor(expected["input_ids"])).logits
    torch.testing.assert_close(logits, torch.tensor(expected["logits"][key]), rtol=0, atol=2e-5)


def test_its_records_are_reported(outputs: Path) -> None:
    records = [json.loads(path.read_text()) for path in outputs.glob("runs/*/record.json")]
    assert len(records) == 2
    ask("report", f"outputs={outputs}")
    with (outputs / "reports" / "table.csv").open() as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    for record in records:
        row = rows[record["run"]["id"]]
        assert float(row["speedup"]) == pytest.approx(record["latency"]["speedup"])
        assert float(row["artifact_bytes"]) == record["size"]["artifact_bytes"]


def test_its_artifacts_are_described(outputs: Path) -> None:
    cards = {path: path.read_text() for path in outputs.glob("artifacts/*/README.md")}
    for path in cards:
        path.unlink()
    complete(outputs, [path.parent.name.rpartition("-")[2] for path in outputs.glob("runs/*/record.json")])
    told = [path.read_text() for path in cards if path.exists()]
    assert len(told) >= 2
    assert any("quant/static" in text and "sparsity=0.5" in text for text in told)


def test_its_members_count_as_finished_and_nothing_of_it_as_waste(outputs: Path) -> None:
    assert "2 finished" in ask("status", str(outputs))
    ask("clean", "--yes", str(outputs))
    left = {path.relative_to(outputs) for path in outputs.rglob("*.safetensors")}
    assert left == {path.relative_to(KEPT) for path in KEPT.rglob("*.safetensors")}

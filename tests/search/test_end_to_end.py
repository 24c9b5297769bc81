"""A search of real runs on the embedded task, and the command that it ends with."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from compress_exp.outputs.objectives import HIGHER, LOWER, SHORT
from compress_exp.outputs.records import number

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("train.threads=1", "train.max_steps=3", "tracking=disabled", "model.vocabulary=320", "task.max_length=32"),
    *("model.architecture.hidden_size=32", "model.architecture.num_hidden_layers=2", "hardware=cpu_eager"),
    *("hardware.lengths=[16]", "hardware.batch_sizes=[1]", "hardware.rounds=5", "hardware.seconds=0.2"),
]
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
ELSEWHERE = ("latency/token_ms", "latency/prompt_ms", "memory/device_bytes", "energy/joules_per_1000")


def cli(*arguments: str) -> str:
    command = [sys.executable, "-m", "compress_exp", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_trials_see_a_holdout_and_the_pareto_set_is_measured_on_validation(tmp_path: Path) -> None:
    space = ["method=prune,finetune", "method.prune.sparsity=interval(0.2,0.9)", "seed=0", f"outputs={tmp_path}"]
    search = ["hydra/sweeper=optuna", "-m", *SMALL, *space, "hydra.sweeper.n_trials=3"]
    out = cli(*search)
    assert "trial 3/3 " in out
    records: list[dict[str, Any]] = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/record.json")]
    rows = {(record["quality"]["split"], record["quality"]["rows"]) for record in records}
    assert rows == {("holdout", 600), ("validation", 1000)}
    seen = {split: {r["origin"]["artifact"] for r in records if r["quality"]["split"] == split} for split, _ in rows}
    assert seen["validation"] <= seen["holdout"]
    assert len({record["origin"]["baseline"] for record in records}) == 1
    builds = [json.loads(line)["key"] for line in (tmp_path / "artifacts" / "builds.jsonl").read_text().splitlines()]
    assert sorted(builds) == sorted({*seen["holdout"], records[0]["origin"]["baseline"]})
    for path in (*HIGHER, *LOWER):
        found = number(records[0], *SHORT.get(path, tuple(path.split("/"))))
        assert (found is None) == (path in ELSEWHERE), path
    best = [line for line in out.splitlines() if ": python -m compress_exp " in line]
    command = shlex.split(best[0].partition(": ")[2])
    assert "finished before" in cli(*command[3:])
    again = cli(*search)
    assert [line for line in again.splitlines() if line in best] == best
    assert "training" not in again and "measured in" not in again

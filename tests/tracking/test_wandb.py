"""One run, one history: shown again, killed in between, kept offline, synced and sent, in every order."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from compress_exp.tracking.wandb import WandbTracking
from tests.tracking.wandb_server import Wandb, serve

ID = "abc123"
RUN = {"id": ID, "name": f"tiny-{ID}", "model": "tiny", "task": "reviews", "method": ["prune"]}
CURVES: list[dict[str, float]] = [{"step": 5 * step, "train/loss": 1 / (step + 1)} for step in range(40)]
OFFLINE = WandbTracking(mode="offline", timeout=5)
ONLINE = WandbTracking(mode="online", timeout=5)
KILLED = """
import json, os, signal, sys
from pathlib import Path
from wandb.sdk.wandb_run import Run
from compress_exp.tracking.wandb import WandbTracking

written, calls = Run.log, []
def log(self, data, step=None):
    written(self, data, step=step)
    calls.append(step)
    if len(calls) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
Run.log = log
directory = Path(sys.argv[1])
given = json.loads((directory / "record.json").read_text())
WandbTracking(mode="offline").log(given, json.loads(sys.argv[2]), {}, directory)
"""


def measured(outputs: Path, quality: float) -> tuple[dict[str, Any], Path]:
    directory = outputs / "runs" / "x"
    directory.mkdir(parents=True, exist_ok=True)
    rows = [{"batch_size": 1, "p50_ms": quality}]
    record = {"run": RUN | {"hardware": "cpu", "seed": 0}, "quality": {"primary": {"value": quality}}}
    record |= {"latency": {**rows[0], "rows": rows}}
    (directory / "record.json").write_text(json.dumps(record))
    return record, directory


def log(tracking: WandbTracking, outputs: Path, quality: float, curves: list[dict[str, float]] = CURVES) -> Path:
    record, directory = measured(outputs, quality)
    tracking.log(record, curves, {"quality": quality}, directory)
    return directory


def killed(outputs: Path) -> Path:
    """Show a run offline in a process that is killed after half of its history."""
    _, directory = measured(outputs, 0.1)
    command = [sys.executable, "-c", KILLED, str(directory), json.dumps(CURVES)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    return directory


def sessions(outputs: Path) -> list[Path]:
    return sorted((outputs / "wandb").glob("offline-run-*"))


def sync(outputs: Path) -> None:
    command = [sys.executable, "-m", "wandb", "sync", *map(str, sessions(outputs))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=outputs)
    assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr


def check_history(server: Wandb, quality: float) -> None:
    """One run with every row of the curves once, in order, and the last record's numbers."""
    assert list(server.runs) == [ID]
    run = server.runs[ID]
    steps = [row["_step"] for row in run.rows]
    assert steps == sorted(set(steps))
    assert [(row["_step"], row["train/loss"]) for row in run.rows if "train/loss" in row] == [
        (row["step"], pytest.approx(row["train/loss"])) for row in CURVES
    ]
    assert run.summary["quality/primary"] == quality
    assert run.config["cfg"]["value"]["quality"] == quality


def test_killed_offline_and_shown_again_is_one_session(server: Wandb, tmp_path: Path) -> None:
    directory = killed(tmp_path)
    assert not sessions(tmp_path) and not OFFLINE.done(directory)
    log(OFFLINE, tmp_path, 0.2)
    assert OFFLINE.done(directory) and len(sessions(tmp_path)) == 1
    assert not list((tmp_path / "wandb").glob(".partial-*"))
    sync(tmp_path)
    check_history(server, 0.2)


def test_measured_again_offline_replaces_the_session_until_it_is_synced(server: Wandb, tmp_path: Path) -> None:
    log(OFFLINE, tmp_path, 0.1)
    (first,) = sessions(tmp_path)
    log(OFFLINE, tmp_path, 0.2)
    (second,) = sessions(tmp_path)
    assert not first.exists() or first == second
    sync(tmp_path)
    check_history(server, 0.2)
    log(OFFLINE, tmp_path, 0.3)
    assert len(sessions(tmp_path)) == 2
    log(OFFLINE, tmp_path, 0.4)
    assert len(sessions(tmp_path)) == 2
    sync(tmp_path)
    check_history(server, 0.4)


def test_what_was_kept_offline_is_sent_when_the_server_is_there(server: Wandb, tmp_path: Path) -> None:
    log(OFFLINE, tmp_path, 0.1)
    directory = log(ONLINE, tmp_path, 0.2)
    assert ONLINE.done(directory) and not sessions(tmp_path)
    check_history(server, 0.2)
    log(OFFLINE, tmp_path, 0.3)
    sync(tmp_path)
    check_history(server, 0.3)
    log(ONLINE, tmp_path, 0.4)
    check_history(server, 0.4)


def test_curves_that_only_an_offline_session_has_are_not_lost(server: Wandb, tmp_path: Path) -> None:
    log(OFFLINE, tmp_path, 0.1)
    log(OFFLINE, tmp_path, 0.2, curves=[])
    assert not ONLINE.done(log(ONLINE, tmp_path, 0.3, curves=[]))
    sync(tmp_path)
    check_history(server, 0.2)
    assert ONLINE.done(log(ONLINE, tmp_path, 0.3, curves=[]))
    check_history(server, 0.3)


def test_broken_off_online_goes_on_where_the_server_stands(
    server: Wandb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record, directory = measured(tmp_path, 0.1)
    ONLINE.log(record, [*CURVES[:20], {"step": float("inf")}], {}, directory)
    assert len(server.runs[ID].history) == 20
    log(OFFLINE, tmp_path, 0.2)
    assert not OFFLINE.done(directory) and not sessions(tmp_path)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2 and "the server has a part of this history" in warnings[1]
    log(ONLINE, tmp_path, 0.3)
    assert ONLINE.done(directory)
    check_history(server, 0.3)


def test_runs_of_a_sweep_are_grouped_by_the_sweep_that_asked_last(server: Wandb, tmp_path: Path) -> None:
    log(ONLINE, tmp_path, 0.1)
    assert server.runs[ID].group == "tiny/reviews"
    for age, name in ((20, "older"), (10, "newer"), (0, "of-others")):
        file = tmp_path / "sweeps" / name / "sweep.json"
        file.parent.mkdir(parents=True)
        members = [{"run": "other"}, {"run": None}, *([] if name == "of-others" else [{"run": ID}])]
        file.write_text(json.dumps({"id": name, "members": members}))
        os.utime(file, (time.time() - age,) * 2)
    log(ONLINE, tmp_path, 0.2)
    assert server.runs[ID].group == "newer"
    check_history(server, 0.2)


@pytest.mark.parametrize("operation", ["/healthz", "RunResumeStatus", "UpsertBucket"])
def test_a_server_that_falls_silent_delays_the_start_by_five_seconds(
    server: Wandb, tmp_path: Path, caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    log(OFFLINE, tmp_path / "warm", 0.1)
    started = time.monotonic()
    log(OFFLINE, tmp_path / "undisturbed", 0.1)
    usual, started = time.monotonic() - started, time.monotonic()
    server.silent_from = operation
    directory = log(WandbTracking(), tmp_path / "silent", 0.1)
    assert server.asked[0] == "/healthz" and server.broken.is_set()
    assert time.monotonic() - started - usual < 5 + 3  # three for a busy machine
    assert WandbTracking().done(directory) and len(sessions(tmp_path / "silent")) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("tracking: ") and line.endswith("; kept offline")


def test_a_silent_server_does_not_hold_up_the_end_of_the_process(server: Wandb, tmp_path: Path) -> None:
    _, directory = measured(tmp_path, 0.1)
    server.silent_from = "RunResumeStatus"
    program = KILLED.replace("== 20", "== -1").replace('mode="offline"', "")
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", program, str(directory), json.dumps(CURVES)], check=True)
    assert time.monotonic() - started < 5 + 8  # and imports on a busy machine


def test_a_server_that_is_killed_costs_a_bounded_time_and_is_shown_the_run_later(server: Wandb, tmp_path: Path) -> None:
    server.gone_from = "file_stream"
    started = time.monotonic()
    directory = log(WandbTracking(finish_timeout=3), tmp_path, 0.1)
    assert time.monotonic() - started < 3 + 10 + 7  # seven for a busy machine
    assert server.broken.is_set() and not ONLINE.done(directory)
    with serve(server):
        log(WandbTracking(), tmp_path, 0.1)
        assert ONLINE.done(directory)
        check_history(server, 0.1)

from __future__ import annotations

import json
import os
import platform
import pty
import re
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from compress_exp.outputs.lease import leased
from compress_exp.status.__main__ import main
from compress_exp.status.show import render, summary
from compress_exp.status.sweeps import Snapshot, look

START = "2026-01-01T00:00:00+00:00"


def run(outputs: Path, name: str, record: bool = False, **status: Any) -> Path:
    directory = outputs / "runs" / name
    directory.mkdir(parents=True)
    if record:
        (directory / "record.json").write_text(json.dumps({"run": {"id": name}}))
    if status:
        said = {"run": name, "name": name, "reason": None, "host": "n1", "pid": 7, "job": None, "stage": "prune"}
        said |= {"step": 12, "steps": 48, "started": START, "updated": START}
        (directory / "status.json").write_text(json.dumps(said | status))
    return directory


def member(name: str | None, *overrides: str, state: str = "missing", **more: Any) -> dict[str, Any]:
    return {
        "overrides": overrides,
        "run": name,
        "name": name,
        "chain": ["b", "s"],
        "state": state,
        "reason": None,
    } | more


def sweep(outputs: Path, name: str, *members: dict[str, Any], **head: Any) -> None:
    (outputs / "sweeps" / name).mkdir(parents=True)
    content = {"schema": 1, "id": name, "command": f"python -m compress_exp -m {name}", "launcher": "basic"}
    content |= {"started": START, "updated": START, "host": "another", "pid": 1, "fingerprint": "", **head}
    (outputs / "sweeps" / name / "sweep.json").write_text(json.dumps(content | {"members": members}))


def states(snapshot: Snapshot) -> dict[str, str]:
    rows = [row for item in snapshot.sweeps for row in item.rows] + list(snapshot.others)
    return {row.name or "": row.state.state for row in rows}


def text(snapshot: Snapshot) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(render(snapshot))
    return capture.get()


def killed_holder(path: Path) -> int:
    """Take the lease of a path in a process that is then killed."""
    code = "import sys; from pathlib import Path; from compress_exp.outputs.lease import leased\n"
    code += "with leased(Path(sys.argv[1]), 60, 'x'): print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    process.kill()
    process.communicate()
    return process.pid


def test_a_run_is_what_its_directory_and_its_lease_say(tmp_path: Path) -> None:
    run(tmp_path, "finished", record=True)
    run(tmp_path, "failed", state="failed", reason="train: no.", pid=8)
    run(tmp_path, "silent")
    live = run(tmp_path, "running", state="running", job="12_3")
    redone = run(tmp_path, "redone", record=True, state="running")
    dead = run(tmp_path, "dead", state="running", step=24)
    pid = killed_holder(dead)
    with leased(live, 60, "x"), leased(redone, 60, "x"):
        found = look(tmp_path)
        shown = text(found)
    assert states(found) == {
        "finished": "finished",
        "failed": "failed",
        "running": "running",
        "redone": "running",
        "dead": "interrupted",
    }
    assert summary(found) == "1 finished, 2 running, 1 failed, 0 missing, 1 interrupted"
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert f"{platform.node()}, job 12_3" in lines["running"] and "prune 12/48 (25%)" in lines["running"]
    assert "train: no." in lines["failed"] and "n1, process 8" in lines["failed"]
    assert "prune 24/48 (50%): process 7 on n1 is gone; the same command goes on" in lines["dead"]
    assert "silent" not in shown and pid


def test_a_failed_repetition_of_a_finished_run_is_a_failure(tmp_path: Path) -> None:
    directory = run(tmp_path, "x", record=True, state="failed", reason="no.")
    os.utime(directory / "record.json", (1, 1))
    assert states(look(tmp_path)) == {"x": "failed"}
    os.utime(directory / "status.json", (0, 0))
    assert states(look(tmp_path)) == {"x": "finished"}


def test_the_members_of_a_sweep_and_the_overrides_that_differ(tmp_path: Path) -> None:
    run(tmp_path, "a", record=True)
    run(tmp_path, "b", state="failed", reason="too big.")
    run(tmp_path, "alone", record=True)
    common = ("task=reviews",)
    sweep(
        tmp_path,
        "half",
        member("a", *common, "seed=0", "method=prune"),
        member("b", *common, "seed=1", "method=prune", state="running"),
        member("c", *common, "seed=2", "method=prune", state="failed", reason="baseline: no data."),
        member("d", *common, "seed=3", "method=prune", state="running"),
        member(None, *common, "seed=4", "method=nothing", state="refused", reason="method: there is none."),
    )
    sweep(tmp_path, "whole", member("a", "seed=0", state="finished"))
    found = look(tmp_path)
    assert states(found) == {
        "a": "finished",
        "b": "failed",
        "c": "failed",
        "d": "missing",
        "": "refused",
        "alone": "finished",
    }
    assert summary(found) == "2 finished, 0 running, 2 failed, 1 missing, 1 refused"
    shown = text(found)
    assert "python -m compress_exp -m whole: all 1 finished" in shown
    assert "runs of no sweep: all 1 finished" in shown
    assert "python -m compress_exp -m half\nprocess 1 on another started it" in re.sub(r" +\n", "\n", shown)
    assert "task=reviews" not in shown and "seed=1 method=prune" in shown
    assert "baseline: no data." in shown and "method: there is none." in shown


def test_many_finished_runs_are_one_line_below_what_is_left(tmp_path: Path) -> None:
    for seed in range(30):
        run(tmp_path, f"r{seed}", record=True)
    sweep(tmp_path, "x", *(member(f"r{seed}", f"seed={seed}") for seed in range(31)))
    shown = text(look(tmp_path))
    assert "seed=30" in shown and "and 30 finished" in shown
    assert "seed=29" not in shown


def test_a_run_waits_while_the_process_of_its_sweep_lives(tmp_path: Path) -> None:
    own = datetime.fromtimestamp(psutil.Process().create_time() + 1, UTC).isoformat()
    here: dict[str, Any] = {"host": platform.node(), "pid": os.getpid()}
    sweep(tmp_path, "x", member("a", "seed=0"), **here, started=own)
    sweep(
        tmp_path, "y", member("b", "seed=0"), **here, started=START
    )  # before this process began: another had its number
    assert states(look(tmp_path)) == {"a": "waiting", "b": "missing"}


def test_what_an_earlier_attempt_left_waits_for_the_sweep_that_is_going_on(tmp_path: Path) -> None:
    run(tmp_path, "a", state="failed", reason="no.", started="2025-01-01T00:00:00+00:00")
    run(tmp_path, "b", state="running", started="2025-01-01T00:00:00+00:00")
    began = datetime.fromtimestamp(psutil.Process().create_time() + 1, UTC)
    run(tmp_path, "c", state="failed", reason="no.", started=(began + timedelta(seconds=1)).isoformat())
    os.utime(run(tmp_path, "d", record=True) / "record.json", (1, 1))
    members = [member(name, f"seed={seed}", state="running", force="all") for seed, name in enumerate("abcd")]
    sweep(tmp_path, "x", *members, host=platform.node(), pid=os.getpid(), started=began.isoformat())
    found = look(tmp_path)
    assert states(found) == {"a": "waiting", "b": "waiting", "c": "failed", "d": "waiting"}
    assert re.search(r"seed=1 +waiting +prune 12/48", text(found))


def test_a_sweep_up_to_a_stage_is_finished_with_its_artifacts(tmp_path: Path) -> None:
    sweep(tmp_path, "x", member("a", "until=1", until=1))
    (tmp_path / "artifacts" / "b").mkdir(parents=True)
    assert states(look(tmp_path)) == {"a": "missing"}
    (tmp_path / "artifacts" / "s").mkdir()
    assert states(look(tmp_path)) == {"a": "finished"}


def test_builds_in_progress_and_those_that_were_left(tmp_path: Path) -> None:
    for key in ("live", "left"):
        (tmp_path / "artifacts" / f"{key}.partial-0").mkdir(parents=True)
    with leased(tmp_path / "artifacts" / "live", 60, "x"):
        shown = text(look(tmp_path))
        assert f"artifact live: being built by process {os.getpid()} on {platform.node()}" in shown
        assert "1 half-built artifact is left: the command that began goes on" in shown
        with leased(run(tmp_path, "a", state="running"), 60, "x"):
            assert "being built" not in text(look(tmp_path))


def test_damaged_files_are_named_in_one_line_each(tmp_path: Path) -> None:
    run(tmp_path, "a", record=True)
    (run(tmp_path, "b") / "record.json").write_text('{"run": ')
    (run(tmp_path, "c") / "status.json").write_text("[]")
    run(tmp_path, "d", state="running", step="many", started="yesterday", host=[1])
    sweep(tmp_path, "x", member("a", state="lost") | {"name": None})
    sweep(tmp_path, "y")
    (tmp_path / "sweeps" / "y" / "sweep.json").write_text("{}")
    found = look(tmp_path)
    assert [line.split(" is damaged")[0] for line in found.problems] == [
        str(tmp_path / "runs" / "b" / "record.json"),
        str(tmp_path / "runs" / "c" / "status.json"),
        str(tmp_path / "sweeps" / "x" / "sweep.json"),
        str(tmp_path / "sweeps" / "y" / "sweep.json"),
    ]
    assert states(found) == {"a": "finished", "d": "interrupted"}
    assert all("\n" not in line for line in found.problems)
    assert "d" in text(found)


def test_the_command_prints_and_answers_with_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "b", state="failed", reason="no.")
    assert main([str(tmp_path)]) == 0
    assert "0 finished, 0 running, 1 failed, 0 missing" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--watch", "0"])


def test_it_starts_without_what_is_heavy(tmp_path: Path) -> None:
    code = "import sys; from compress_exp.status.__main__ import main; main([sys.argv[1]])\n"
    code += "print(sorted({'torch', 'lightning', 'transformers', 'pandas', 'submitit', 'optuna'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_watching_follows_the_runs_until_ctrl_c(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "compress_exp.status", str(tmp_path), "--watch", "0.1"]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env={**os.environ, "TERM": "xterm"}
    )
    os.close(terminal)
    try:
        assert "0 finished" in _until(controller, "0 finished")
        run(tmp_path, "a", record=True)
        assert "1 finished" in _until(controller, "1 finished")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def _until(controller: int, wanted: str) -> str:
    """What a terminal shows until something is in it, or for 20 seconds."""
    shown, end = "", time.monotonic() + 20
    while wanted not in shown and time.monotonic() < end:
        if select.select([controller], [], [], 0.1)[0]:
            shown += os.read(controller, 65536).decode(errors="replace")
    return shown


def test_the_directory_may_be_written_as_the_main_command_writes_it(tmp_path: Path, capsys: Any) -> None:
    run(tmp_path, "a", record=True)
    assert main([str(tmp_path)]) == 0
    plain = capsys.readouterr().out
    assert main([f"outputs={tmp_path}"]) == 0
    assert capsys.readouterr().out == plain

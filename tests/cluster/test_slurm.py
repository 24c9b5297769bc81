"""The SLURM launcher on a real SLURM, with jobs that wait, fail, are cancelled, preempted and orphaned."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress_exp.config.schema import CONF
from hydra_plugins.compress_exp.slurm import SlurmLauncher
from tests.cluster.app import stays
from tests.cluster.conftest import ROOT, Parent
from tests.cluster.slurm import Cluster, wait_for

SLURM = "hydra/launcher=slurm"
WAIT = "number={} action=wait"
slurm = pytest.mark.slurm


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def start(parent: Parent, place: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return parent(place / "log", "tests.cluster.app", str(place), SLURM, *arguments)


def finish(process: subprocess.Popen[bytes], place: Path) -> list[Any]:
    assert process.wait(60) == 0, (place / "log").read_text()
    returns: list[Any] = json.loads((place / "returns.json").read_text())
    return returns


def running(place: Path, *numbers: int) -> None:
    wait_for(lambda: all(stays(place, number) for number in numbers), lambda: (place / "log").read_text(), 30)


def go(place: Path) -> None:
    (place / "go").touch()


def said(place: Path, text: str) -> None:
    wait_for(lambda: text in (place / "log").read_text(), lambda: f"{text!r} in {(place / 'log').read_text()}", 40)


def job_of(place: Path, number: int) -> str:
    rows = [json.loads(line) for line in (place / "slurm" / "jobs.jsonl").read_text().splitlines()]
    return next(str(row["job"]) for row in reversed(rows) if f"number={number}" in row["overrides"])


@slurm
def test_every_job_comes_back_with_its_result_or_its_sentence(parent: Parent, place: Path) -> None:
    jobs = ["number=0", "number=1 action=refuse", "number=2 action=fail", "number=3 train.threads=7"]
    process = start(parent, place, "hydra.launcher.cpus_per_task=2", "--", *jobs)
    cores = min(2, len(os.sched_getaffinity(0)))
    assert finish(process, place) == [
        {"number": 0, "threads": cores},
        "UserError: task: this one is not allowed",
        "UserError: Unlucky: out of luck",
        {"number": 3, "threads": 7},
    ]
    assert stays(place, 0)[0]["place"] == str(ROOT)
    script = next((place / "slurm").glob("*/*_submission.sh")).read_text()
    for option in ("requeue", "signal=USR2@300", "time=240", "cpus-per-task=2", "job-name=compress_exp"):
        assert f"#SBATCH --{option}\n" in script
    assert "srun --unbuffered" in script and " --cpus-per-task=2 " in script


@slurm
def test_a_parent_inside_a_job_hands_nothing_of_it_down(
    cluster: Cluster, parent: Parent, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2", "SLURM_MEM_PER_NODE": "1"}.items():
        monkeypatch.setitem(cluster.environment, name, value)
    assert finish(start(parent, place, "--", "number=0"), place) == [{"number": 0, "threads": 1}]


@slurm
def test_a_cancelled_job_fails_alone(cluster: Cluster, parent: Parent, place: Path) -> None:
    process = start(parent, place, "--", *map(WAIT.format, range(3)))
    running(place, 0, 1, 2)
    job = job_of(place, 1)
    cluster.command("scancel", job)
    wait_for(lambda: cluster.command("squeue", "-h", "-r", "-j", job).strip() == "", "still there", 20)
    go(place)
    first, lost, last = finish(process, place)
    assert (first["number"], last["number"]) == (0, 2)
    log = lost.removeprefix(f"UserError: SLURM job {job} ended as CANCELLED without a result; its log: ")
    assert Path(log).is_file()


@slurm
def test_a_preempted_job_goes_on_in_the_same_place(cluster: Cluster, parent: Parent, place: Path) -> None:
    process = start(parent, place, "--", WAIT.format(0), WAIT.format(1))
    running(place, 0, 1)
    cluster.command("scancel", "--signal=USR2", job_of(place, 0))
    wait_for(lambda: len(stays(place, 0)) == 2, lambda: cluster.command("squeue"), 40)
    go(place)
    assert [item["number"] for item in finish(process, place)] == [0, 1]
    before, after = stays(place, 0)
    assert before["SLURM_JOB_ID"] == after["SLURM_JOB_ID"] and after["SLURM_RESTART_COUNT"] == "1"
    assert len(stays(place, 1)) == 1


@slurm
def test_what_dies_with_a_requeued_job_is_no_failure(cluster: Cluster, parent: Parent, place: Path) -> None:
    process = start(parent, place, "--", "number=0 action=child")
    running(place, 0)
    cluster.command("scontrol", "requeue", job_of(place, 0))
    wait_for(lambda: len(stays(place, 0)) == 2, lambda: cluster.command("squeue"), 40)
    go(place)
    assert finish(process, place)[0]["number"] == 0


@slurm
def test_a_job_that_runs_out_of_time_goes_on_in_a_new_stay(parent: Parent, place: Path) -> None:
    # SLURM looks every 30 s and warns up to 30 s too early, so between 15 s and 45 s after the start.
    times = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=15"]
    process = start(parent, place, *times, "--", WAIT.format(0))
    wait_for(lambda: len(stays(place, 0)) == 2, (place / "log").read_text, 120)
    go(place)
    assert finish(process, place)[0]["number"] == 0


@slurm
def test_an_interrupted_parent_leaves_its_jobs_and_the_same_command_waits_for_them(
    cluster: Cluster, parent: Parent, place: Path
) -> None:
    command = ["--", WAIT.format(0), WAIT.format(1), "number=2"]
    process = start(parent, place, *command)
    running(place, 0, 1, 2)
    said(place, "done (1 of 3)")
    job = job_of(place, 0)
    process.send_signal(signal.SIGINT)
    process.wait(20)
    said(place, f"SLURM goes on with its jobs; `scancel {job.split('_')[0]}` stops them")
    process = start(parent, place, *command)
    said(place, f"waiting for 2 SLURM jobs that were submitted before: {job} {job_of(place, 1)}\n")
    said(place, "1 SLURM jobs submitted")
    go(place)
    assert [item["number"] for item in finish(process, place)] == [0, 1, 2]
    assert [len(stays(place, number)) for number in range(3)] == [1, 1, 2]


@slurm
def test_a_job_cancelled_just_before_the_same_command_is_submitted_again(
    cluster: Cluster, parent: Parent, place: Path
) -> None:
    command = ["--", WAIT.format(0)]
    process = start(parent, place, *command)
    running(place, 0)
    process.send_signal(signal.SIGINT)
    process.wait(20)
    cluster.command("scancel", job_of(place, 0))
    process = start(parent, place, *command)
    wait_for(lambda: len(stays(place, 0)) == 2, (place / "log").read_text, 90)
    go(place)
    assert finish(process, place)[0]["number"] == 0


@slurm
def test_a_held_job_and_a_silent_controller_are_told_and_waited_for(
    cluster: Cluster, parent: Parent, place: Path
) -> None:
    process = start(parent, place, "+hydra.launcher.additional_parameters.hold=true", "--", "number=0")
    said(place, "is held (JobHeldUser)")
    cluster.restart_controller(lambda: said(place, "squeue does not answer"))
    cluster.command("scontrol", "release", job_of(place, 0))
    assert finish(process, place)[0]["number"] == 0


@slurm
def test_a_job_that_the_queue_forgot_is_known_as_gone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from compress_exp.launchers.squeue import ENDED, Queue

    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environment[name])
    caplog.set_level(logging.INFO, "compress_exp")
    queue = Queue()
    states = queue.states(["999999_0", "999998"])
    assert states == {"999999_0": "GONE", "999998": "GONE"} and "GONE" in ENDED
    assert [queue.ending("999999_0"), queue.ending("999998")] == [None, None]
    assert [record.message for record in caplog.records] == [
        "this cluster keeps no accounting (Slurm accounting storage is disabled): how jobs end is read from squeue"
    ]


@slurm
def test_what_sbatch_refuses_is_one_sentence(parent: Parent, place: Path) -> None:
    process = start(parent, place, "hydra.launcher.partition=nowhere", "--", "number=0", "number=1")
    assert process.wait(60) == 1
    last = (place / "log").read_text().splitlines()[-1]
    assert last.startswith(
        "compress_exp.config.checks.UserError: hydra.launcher: sbatch refuses: invalid partition specified"
    )


def test_a_warning_that_comes_while_python_still_imports_is_kept_for_the_job() -> None:
    pytest.importorskip("submitit")
    from compress_exp.launchers.slurm import PATIENT

    job = (
        "import signal; print('importing', flush=True); input(); heard = []; "
        "signal.signal(signal.SIGUSR2, lambda *_: heard.append('warned')); "
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2]); print(heard)"
    )
    line = [sys.executable, "-S", "-c", PATIENT, "-c", job]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGUSR2)
        answer, _ = process.communicate("\n", timeout=30)
    assert answer == "['warned']\n"


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (
            "import sys; sys.modules['submitit'] = None",
            "hydra/launcher=slurm needs submitit; install it: pip install 'compress_exp[slurm]'",
        ),
        (
            "import os, sys, types, importlib.machinery as m; os.environ['PATH'] = '/nowhere'; "
            "sys.modules['submitit'] = s = types.ModuleType('submitit'); s.__spec__ = m.ModuleSpec('submitit', None)",
            "hydra/launcher=slurm: no sbatch on PATH here; start it on a host of the cluster",
        ),
    ],
)
def test_a_machine_that_cannot_submit_says_so(tmp_path: Path, prepare: str, sentence: str) -> None:
    code = f"{prepare}; from compress_exp.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["-m", SLURM, "model=tiny_bert", "seed=0", f"outputs={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 1
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_warning_earlier_than_the_start_is_refused(tmp_path: Path) -> None:
    arguments = ["-m", SLURM, "hydra.launcher.timeout_min=5", f"outputs={tmp_path}"]
    line = [sys.executable, "-m", "compress_exp", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "hydra.launcher.signal_delay_s: 300 s before the end of 5 min leaves no time" in done.stdout + done.stderr


def test_the_preset_sets_every_key() -> None:
    preset = yaml.safe_load((CONF / "hydra" / "launcher" / "slurm.yaml").read_text())
    assert {name for name in preset if not name.startswith("_")} == {item.name for item in fields(SlurmLauncher)}

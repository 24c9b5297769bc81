"""Measure an artifact beside its baseline, in fresh processes, one measurement at a time on a host."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compress_exp.config.checks import UserError
from compress_exp.config.schema import PACKAGE
from compress_exp.measurement.hardware import AUTO, Hardware
from compress_exp.measurement.kernels import kept
from compress_exp.outputs.lease import SECONDS

log = logging.getLogger("compress_exp")


class MeasureError(RuntimeError):
    """A measuring process failed; the message is one line, the traceback is a note."""


def measure(
    artifact: Path,
    baseline: Path,
    task_config: dict[str, Any],
    hardware_config: dict[str, Any],
    keys: dict[str, str],
    outputs: Path,
    deploy: Path,
    parent: Path,
    stages: Mapping[str, Path] | None = None,
    newer_than: float = 0.0,
    lease_seconds: float = SECONDS,
) -> dict[str, Any]:
    """Everything that a record says about an artifact on a hardware profile.

    Args:
        artifact: the directory that is measured, as loaded from disk.
        baseline: the directory of the dense model.
        task_config: the resolved `task` node.
        hardware_config: the resolved `hardware` node.
        keys: the keys of both in the store: "artifact" and "baseline".
        outputs: its `evaluations` keeps evaluations, choices of runtimes and the baseline's exports, its `checks` what
            was seen of kernels.
        deploy: the directory that the artifact's deployed files are written to, in one of the runtime's name.
        parent: the directory of what the artifact was made from.
        stages: artifacts of earlier stages that are evaluated as well, by key.
        newer_than: evaluate the artifact again if its evaluation was finished before this time (`force`).
        lease_seconds: after which a silent builder of an evaluation is superseded.

    Returns:
        The blocks quality, size, latency, memory, energy, runtime and flags, and the metrics of `stages` by key.

    Raises:
        UserError: the task or the hardware cannot be used.
        MeasureError: a process failed.
    """
    threads = int(hardware_config.get("threads", 1))
    job = {
        "what": "comparison",
        "artifact": str(artifact.resolve()),
        "baseline": str(baseline.resolve()),
        "task": task_config,
        "hardware": hardware_config,
        "keys": keys,
        "made_from": str(parent.resolve()),
        "evaluations": str((outputs / "evaluations").resolve()),
        "checks": str((outputs / "checks").resolve()),
        "deploy": str(deploy.resolve()),
        "stages": {key: str(path.resolve()) for key, path in (stages or {}).items()},
        "newer_than": newer_than,
        "lease_seconds": lease_seconds,
        "progress": sys.stderr.isatty(),
    }
    with host_lock(str(artifact)):
        blocks = run_child(job, None)
        jobs: dict[str, dict[str, Any]] = blocks.pop("memory_jobs")
        with ThreadPoolExecutor() as pool:
            own = pool.submit(run_child, {"what": "memory", **jobs["artifact"]}, threads)
            dense = pool.submit(run_child, {"what": "memory", **jobs["baseline"]}, threads)
            memory, baseline_memory = own.result(), dense.result()
    blocks["memory"] = {**memory, **{f"baseline_{name}": value for name, value in baseline_memory.items()}}
    return blocks


def check_kernels(hardware: Hardware, kind: str, largest: int, outputs: Path) -> None:
    """Look, before anything is trained, which runtimes multiply integers exactly on this host, and say which do not.

    Args:
        hardware: names the runtimes.
        kind: of the model.
        largest: the largest code that weights will have.
        outputs: its `checks` keeps what was seen, by release, CPU and range of codes.
    """
    checks = outputs / "checks"
    wanted = hardware.candidates(kind)
    if hardware.runtime[kind] != AUTO:
        wanted = wanted[:1]
    exported = [one for one in wanted if one.name != "eager"] if hardware.device == "cpu" else []
    missing = [one.name for one in exported if kept(one, largest, checks) is None]
    if missing:
        log.info("%-24s checked on this CPU, once: codes up to %d", f"int8 in {', '.join(missing)}", largest)
        run_child({"what": "kernels", "runtimes": missing, "largest": largest, "checks": str(checks.resolve())}, None)
    for one in exported:
        if (seen := kept(one, largest, checks)) is not None and not seen.exact:
            log.warning("%s", seen)


@contextmanager
def host_lock(what: str) -> Iterator[None]:
    """Keep measurements of one user on one host apart; others wait, and say for whom.

    Args:
        what: is measured, for those that wait.
    """
    user = os.getuid() if hasattr(os, "getuid") else "all"
    place = Path(tempfile.gettempdir()) / f"compress_exp-measure-{user}.lock"
    lock, note = FileLock(place), place.with_suffix(".holder")
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        log.info("waiting for another measurement on this host (%s)", _read(note) or place)
        lock.acquire()
    try:
        with open(note, "w", opener=_no_link) as stream:
            stream.write(f"process {os.getpid()}, {what}")
        yield
    finally:
        lock.release()


def _no_link(path: str, flags: int) -> int:
    """Others write in the temporary directory too."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def run_child(job: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """Do a job in a fresh process and return its answer.

    Args:
        job: see `compress_exp.measurement.child`.
        threads: sets the thread pools' own limits; None leaves them.

    Raises:
        UserError: the job's own, told again.
        MeasureError: any other failure, or a process that died.
    """
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **quiet, "PYTHONPATH": path}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory(prefix="compress_exp-") as directory:
        file = Path(directory) / "job.json"
        file.write_text(json.dumps({**job, "parent": os.getpid()}))
        process = subprocess.Popen([sys.executable, "-m", "compress_exp.measurement.child", str(file)], env=environment)
        try:
            code = process.wait()
        finally:
            process.kill()
        answer = file.with_name("job.answer.json")
        if not answer.is_file():
            raise MeasureError(f"measuring {_subject(job)} failed: its process {_death(code)}")
        return _result(json.loads(answer.read_text()), job)


def _subject(job: dict[str, Any]) -> str:
    return str(job.get("artifact") or job.get("directory") or f"the kernels of {', '.join(job['runtimes'])}")


def _death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (out of memory?)"
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _result(answer: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    if "result" in answer:
        result: dict[str, Any] = answer["result"]
        return result
    if answer["type"] == "UserError":
        raise UserError(answer["error"])
    first = (answer["error"].strip().splitlines() or [""])[0]
    error = MeasureError(f"measuring {_subject(job)} failed: {answer['type']}: {first} ({answer['where']})")
    error.add_note(answer["traceback"])
    raise error

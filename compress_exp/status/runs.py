"""The state of runs and builds as their directories tell it; whoever reads takes no lease and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compress_exp.outputs.lease import Holder, holder, lease_file
from compress_exp.outputs.manifest import FAILED, FINISHED, MISSING, REFUSED, RUNNING

INTERRUPTED, WAITING = "interrupted", "waiting"
STATES = (RUNNING, FAILED, INTERRUPTED, REFUSED, WAITING, MISSING, FINISHED)


@dataclass(frozen=True)
class State:
    """What is known of one run.

    Attributes:
        state: one of `STATES`.
        reason: one sentence for what failed, was refused or was interrupted.
        host: where it runs or ran.
        pid: its process there.
        job: its SLURM job.
        stage: what is being built, or "measuring".
        step: optimiser steps done of the stage.
        steps: steps of the stage; 0 where there is nothing to count.
        started: when it began.
    """

    state: str
    reason: str | None = None
    host: str | None = None
    pid: int | None = None
    job: str | None = None
    stage: str | None = None
    step: int = 0
    steps: int = 0
    started: datetime | None = None

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"there is no state {self.state!r}")


@dataclass(frozen=True)
class Build:
    """A half-built artifact.

    Attributes:
        key: of the artifact.
        holder: who builds it; None or not alive where a killed build left it.
    """

    key: str
    holder: Holder | None

    @property
    def alive(self) -> bool:
        """Whether somebody works on it."""
        return self.holder is not None and self.holder.alive


def read(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A file's JSON object; None if there is none, or if it is damaged, which is noted."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        content = " ".join(str(error).split())
    if isinstance(content, dict):
        return content
    problems.append(f"{path} is damaged ({content if isinstance(content, str) else 'no object'}) and left out")
    return None


def run_states(runs: Path, problems: list[str]) -> dict[str, State]:
    """The states of all run directories that say anything, by name."""
    names = (
        sorted(path.name for path in runs.iterdir() if path.is_dir() and path.name[:1] != ".") if runs.is_dir() else []
    )
    states = {name: run_state(runs / name, problems) for name in names}
    return {name: state for name, state in states.items() if state is not None}


def run_state(directory: Path, problems: list[str]) -> State | None:
    """What a run's directory tells; None if it tells nothing.

    A live lease counts most, then the record, unless a later attempt (`force=…`) failed.
    """
    owner = holder(directory) if lease_file(directory).exists() else None
    said = read(directory / "status.json", problems)
    facts = _facts(said or {})
    if owner is not None and owner.alive:
        return State(RUNNING, **facts | {"host": owner.host, "pid": owner.pid})
    failed = said is not None and said.get("state") == FAILED
    if _is_record(directory / "record.json", problems) and not (failed and _later(directory)):
        return State(FINISHED)
    if said is None:
        return None
    if failed:
        return State(FAILED, str(said.get("reason")), **facts)
    gone = f"process {facts['pid']} on {facts['host']} is gone; the same command goes on"
    return State(INTERRUPTED, gone, **facts)


def builds(artifacts: Path) -> list[Build]:
    """What is being built, or was left half-built."""
    keys = sorted({path.name.partition(".partial-")[0] for path in artifacts.glob("*.partial-*")})
    return [Build(key, holder(artifacts / key)) for key in keys]


def _is_record(path: Path, problems: list[str]) -> bool:
    record = read(path, problems)
    return record is not None and isinstance(record.get("run"), dict)


def _later(directory: Path) -> bool:
    """Whether the last failure is younger than the record."""
    try:
        return (directory / "status.json").stat().st_mtime > (directory / "record.json").stat().st_mtime
    except FileNotFoundError:
        return False


def _facts(said: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run is and how far, as far as its status can be understood."""
    facts: dict[str, Any] = {name: said.get(name) for name in ("host", "pid", "job", "stage")}
    for name in ("step", "steps"):
        facts[name] = said[name] if isinstance(said.get(name), int) else 0
    try:
        facts["started"] = datetime.fromisoformat(str(said.get("started"))).astimezone(UTC)
    except ValueError:
        facts["started"] = None
    return facts

"""The sweeps under `outputs/sweeps`: what was asked for, and what has become of it."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from compress_exp.outputs.manifest import FAILED, FINISHED, MISSING, REFUSED
from compress_exp.status.runs import INTERRUPTED, WAITING, Build, State, builds, read, run_states


@dataclass(frozen=True)
class Row:
    """One run of a sweep.

    Attributes:
        name: of its directory; None where it was refused.
        overrides: of the run.
        state: what has become of it.
    """

    name: str | None
    overrides: tuple[str, ...]
    state: State


@dataclass(frozen=True)
class Sweep:
    """One command that made several runs.

    Attributes:
        command: as it was typed.
        parent: its process, "process 12 on host".
        alive: whether that process lives; None if it is on another host.
        updated: when it last wrote, in ISO 8601.
        rows: its runs.
    """

    command: str
    parent: str
    alive: bool | None
    updated: str
    rows: tuple[Row, ...]

    @property
    def done(self) -> bool:
        """Whether every run is finished."""
        return all(row.state.state == FINISHED for row in self.rows)


@dataclass(frozen=True)
class Snapshot:
    """All that lies in `outputs` at one moment.

    Attributes:
        sweeps: the latest first.
        others: runs that belong to no sweep.
        builds: half-built artifacts.
        problems: one sentence for each damaged file.
    """

    sweeps: tuple[Sweep, ...]
    others: tuple[Row, ...]
    builds: tuple[Build, ...]
    problems: tuple[str, ...]

    @property
    def counts(self) -> Counter[str]:
        """How many runs are in each state; one that several sweeps ask for counts once."""
        return Counter(state.state for state in self.states)

    @property
    def states(self) -> list[State]:
        """The states of all runs, each once."""
        rows = [row for sweep in self.sweeps for row in sweep.rows] + list(self.others)
        return list({row.name or row.overrides: row.state for row in rows}.values())


def look(outputs: Path) -> Snapshot:
    """Read everything.

    Args:
        outputs: an existing directory.
    """
    problems: list[str] = []
    states = run_states(outputs / "runs", problems)
    sweeps = []
    for path in sorted((outputs / "sweeps").glob("*/sweep.json")):
        content = read(path, problems)
        if content is None:
            continue
        try:
            sweeps.append(_sweep(content, states, outputs))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{path} is damaged ({type(error).__name__}: {error}) and left out")
    sweeps.sort(key=lambda sweep: sweep.updated, reverse=True)
    known = {row.name for sweep in sweeps for row in sweep.rows}
    others = tuple(Row(name, (), state) for name, state in states.items() if name not in known)
    return Snapshot(tuple(sweeps), others, tuple(builds(outputs / "artifacts")), tuple(problems))


def _sweep(content: Mapping[str, Any], states: Mapping[str, State], outputs: Path) -> Sweep:
    alive = lives(content)
    began = datetime.fromisoformat(content["started"])
    rows = []
    for member in content["members"]:
        state = _member_state(member, states, outputs, bool(alive))
        if alive and member["state"] != FINISHED and _earlier(member, state, outputs, began):
            state = replace(state, state=WAITING, reason=None)
        rows.append(Row(member["name"], tuple(map(str, member["overrides"])), state))
    parent = f"process {content['pid']} on {content['host']}"
    return Sweep(str(content["command"]), parent, alive, str(content["updated"]), tuple(rows))


def lives(content: Mapping[str, Any]) -> bool | None:
    """Whether the process of a `sweep.json` lives, None if it is on another host.

    A process with its number that began later is another.
    """
    if content["host"] != platform.node():
        return None
    try:
        return (
            psutil.Process(content["pid"]).create_time() <= datetime.fromisoformat(content["started"]).timestamp() + 1
        )
    except psutil.Error:
        return False


def _member_state(member: Mapping[str, Any], states: Mapping[str, State], outputs: Path, alive: bool) -> State:
    """What the run's directory tells; where it tells nothing, what the sweep's process last knew."""
    if member["name"] is None:
        return State(member["state"], member["reason"])
    until = member.get("until")
    if until is not None and all((outputs / "artifacts" / key).is_dir() for key in member["chain"][: until + 1]):
        return State(FINISHED)
    if (state := states.get(member["name"])) is not None and not (until is not None and state.state == FINISHED):
        return state
    if member["state"] in (FAILED, REFUSED):
        return State(member["state"], member["reason"])
    return State(WAITING if alive else MISSING)


def _earlier(member: Mapping[str, Any], state: State, outputs: Path, began: datetime) -> bool:
    """Whether a state is that of an earlier attempt, which the sweep is going to repeat."""
    if state.state in (FAILED, INTERRUPTED):
        return state.started is not None and state.started < began
    record = outputs / "runs" / str(member["name"]) / "record.json"
    again = state.state == FINISHED and bool(member.get("force")) and record.exists()
    return again and record.stat().st_mtime < began.timestamp()

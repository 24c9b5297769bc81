"""Runs that are not finished, with the reason, by the sweep that asked for them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from compress_exp.config.secrecy import hide
from compress_exp.outputs.manifest import FINISHED, MISSING
from compress_exp.status.runs import WAITING
from compress_exp.status.sweeps import look

UNTOLD = {
    MISSING: "nothing of it is there; the same command runs it",
    WAITING: "its sweep has not come to it yet",
}


@dataclass(frozen=True)
class Missing:
    """One run without a record.

    Attributes:
        sweep: the command that asked for it, empty if there is none.
        label: its overrides, or its name.
        state: failed, interrupted, refused, running, waiting or missing.
        reason: one sentence, if there is one.
    """

    sweep: str
    label: str
    state: str
    reason: str


def missing(outputs: Path, tasks: Collection[str] | None) -> list[Missing]:
    """All runs under `outputs` that are not finished, each once.

    Args:
        outputs: the directory of all results.
        tasks: leave out the runs that ask for another task; None for all.
    """
    snapshot = look(outputs)
    found: dict[str, Missing] = {}
    rows = [(sweep.command, row) for sweep in snapshot.sweeps for row in sweep.rows]
    for sweep, row in [*rows, *(("", row) for row in snapshot.others)]:
        asked = next((item.removeprefix("task=") for item in row.overrides if item.startswith("task=")), None)
        if row.state.state == FINISHED or (tasks is not None and asked is not None and asked not in tasks):
            continue
        reason = row.state.reason or UNTOLD.get(row.state.state, "")
        label = " ".join(map(hide, row.overrides)) or row.name or ""
        told = Missing(hide(sweep), label, row.state.state, hide(reason))
        found.setdefault(row.name or label, told)
    return list(found.values())

"""The states as one line, one table for each sweep with something left to do, and one line for each without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compress_exp.outputs.manifest import FAILED, FINISHED, MISSING, REFUSED, RUNNING
from compress_exp.status.runs import INTERRUPTED, STATES, WAITING, State
from compress_exp.status.sweeps import Row, Snapshot, Sweep

STYLES = {RUNNING: "cyan", FAILED: "red", INTERRUPTED: "yellow", REFUSED: "red", FINISHED: "green"}
FINISHED_LISTED = 20
ALWAYS = (FINISHED, RUNNING, FAILED, MISSING)


def render(snapshot: Snapshot) -> RenderableType:
    """Everything there is to say."""
    return Group(*_parts(snapshot))


def summary(snapshot: Snapshot) -> str:
    """How many runs are in each state: the usual ones always, the others where there are any."""
    counts = snapshot.counts
    shown = [*ALWAYS, *(name for name in STATES if name not in ALWAYS and counts[name])]
    return ", ".join(f"{counts[name]} {name}" for name in shown)


def _parts(snapshot: Snapshot) -> Iterator[RenderableType]:
    yield Text(summary(snapshot), style="bold")
    for problem in snapshot.problems:
        yield Text(problem, style="red")
    for sweep in snapshot.sweeps:
        if not sweep.done:
            yield from _listed(_head(sweep), sweep.rows)
    for sweep in snapshot.sweeps:
        if sweep.done:
            yield Text(f"{sweep.command}: all {len(sweep.rows)} finished", style="green")
    if any(row.state.state != FINISHED for row in snapshot.others):
        yield from _listed("runs of no sweep", snapshot.others)
    elif snapshot.others:
        yield Text(f"runs of no sweep: all {len(snapshot.others)} finished", style="green")
    yield from _builds(snapshot)


def _builds(snapshot: Snapshot) -> Iterator[Text]:
    """Builds that no run listed above is at, and how many are left half-built."""
    running = {(state.host, state.pid) for state in snapshot.states if state.state == RUNNING}
    for build in snapshot.builds:
        if build.alive and build.holder is not None and (build.holder.host, build.holder.pid) not in running:
            yield Text(f"artifact {build.key}: being built by {build.holder}")
    if left := sum(not build.alive for build in snapshot.builds):
        what = f"{left} half-built artifact{' is' if left == 1 else 's are'} left"
        yield Text(f"{what}: the command that began goes on, python -m compress_exp.clean removes")


def _head(sweep: Sweep) -> str:
    says = {True: "works on it", False: "is gone; the same command goes on", None: "started it"}
    return f"{sweep.command}\n{sweep.parent} {says[sweep.alive]}"


def _listed(title: str, rows: Sequence[Row]) -> Iterator[RenderableType]:
    """A title and its table; many finished runs are one line below it."""
    yield Text(f"\n{title}", style="bold")
    listed = sorted(zip(_labels(rows), rows, strict=True), key=lambda item: STATES.index(item[1].state.state))
    finished = sum(row.state.state == FINISHED for row in rows)
    if finished > FINISHED_LISTED:
        listed = listed[:-finished]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "where", "since", "progress"):
        table.add_column(name, overflow="fold")
    for label, row in listed:
        state = row.state
        cells = [label, state.state, _where(state), _since(state), _progress(state)]
        table.add_row(*map(Text, cells), style=STYLES.get(state.state))
    yield table
    if finished > FINISHED_LISTED:
        yield Text(f"and {finished} finished", style=STYLES[FINISHED])


def _labels(rows: Sequence[Row]) -> list[str]:
    """The overrides that not all runs have; the name where there are none."""
    shared = set.intersection(*(set(row.overrides) for row in rows))
    own = [" ".join(item for item in row.overrides if item not in shared) for row in rows]
    return [text or row.name or "refused" for text, row in zip(own, rows, strict=True)]


def _where(state: State) -> str:
    if state.host is None or state.state in (FINISHED, WAITING):
        return ""
    return f"{state.host}, job {state.job}" if state.job else f"{state.host}, process {state.pid}"


def _since(state: State) -> str:
    """For how long a run has been going on."""
    if state.started is None or state.state != RUNNING:
        return ""
    seconds = (datetime.now(UTC) - state.started).total_seconds()
    return next(f"{seconds / size:.0f} {unit}" for size, unit in _units() if seconds < 100 * size or unit == "d")


def _units() -> Iterable[tuple[int, str]]:
    return ((1, "s"), (60, "min"), (3600, "h"), (86400, "d"))


def _progress(state: State) -> str:
    """The stage with its steps, and why it ended."""
    stage = state.stage if state.state in (RUNNING, FAILED, INTERRUPTED, WAITING) else None
    steps = f" {state.step}/{state.steps} ({state.step / state.steps:.0%})" if stage and state.steps else ""
    return ": ".join(filter(None, [f"{stage or ''}{steps}", state.reason]))

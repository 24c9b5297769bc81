"""The columns of the headline table: what sorts them and what they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compress_exp.report.page.entries import Entry
from compress_exp.report.page.spread import Spread

NOISE = "≈"
NONE = "–"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: for scripts.
        title: for readers.
        hint: what it is.
        value: what it is sorted by.
        cell: what is shown.
        numeric: whether it is aligned to the right.
    """

    name: str
    title: str
    hint: str
    value: Callable[[Entry], float | str | None]
    cell: Callable[[Entry], str]
    numeric: bool = True


def columns(entries: Sequence[Entry], metric: str, higher_is_better: bool, weights: Mapping[str, float]) -> list[Column]:
    """The columns that say something about these entries."""
    arrow = "" if higher_is_better else " ↓"
    made = [
        Column("run", "run", "methods in order, and what was set", lambda e: e.label, lambda e: e.label, False),
        Column("model", "model", "the pretrained model", lambda e: e.model, lambda e: e.model, False),
        Column("seeds", "seeds", "how many seeds; intervals are over seeds from two on", _seeds, lambda e: str(_seeds(e))),
        Column("quality", f"{metric}{arrow}", f"mean and 95 % interval; {NOISE}: the difference from the dense model is within noise", lambda e: e.quality.value, _quality),
        Column("retained", "kept", "share of the dense model's quality", lambda e: e.retained.value, _retained),
        Column("size", "MB", "weights and configuration on disk, 10⁶ bytes", lambda e: e.artifact_bytes, lambda e: form(e.artifact_bytes, 1e-6)),
        Column("ratio", "smaller", "compression ratio", lambda e: e.ratio, lambda e: form(e.ratio, unit="×")),
        Column("p50", "p50 ms", "median time of the headline shape", lambda e: e.p50, lambda e: form(e.p50)),
        Column("p99", "p99 ms", "99th percentile of that time", lambda e: e.p99, lambda e: form(e.p99)),
        Column("speedup", "faster", f"speed-up over the dense model in one runtime, 95 % interval; {NOISE}: it may be none", lambda e: e.speedup.value, _speedup),
        Column("memory", "RAM MB", "peak memory of a process that runs it", lambda e: e.memory, lambda e: form(e.memory, 1e-6, digits=0)),
        Column("energy", "J / 1000", "joules for 1,000 examples", lambda e: e.energy, lambda e: form(e.energy)),
        Column("score", "WS", "w_A·A + w_CR·CR + w_IS·IS", lambda e: e.score(weights), lambda e: form(e.score(weights))),
    ]  # fmt: skip
    empty = {"seeds": all(_seeds(entry) < 2 for entry in entries), "model": len({entry.model for entry in entries}) < 2}
    empty |= {name: all(entry.__dict__[name] is None for entry in entries) for name in ("memory", "energy")}
    return [column for column in made if not empty.get(column.name)]


def form(value: float | None, factor: float = 1.0, unit: str = "", digits: int = 2) -> str:
    """A number as it is shown, a dash where there is none."""
    return NONE if value is None else f"{value * factor:,.{digits}f}{unit}"


def _seeds(entry: Entry) -> int:
    return len(entry.seeds)


def _quality(entry: Entry) -> str:
    spread = entry.quality
    if spread.value is None:
        return NONE
    digits = 4 if abs(spread.value) <= 1 else 2
    half = f" ± {spread.half:.{max(digits - 1, 1)}f}" if spread.half is not None else ""
    return f"{spread.value:.{digits}f}{half}{_mark(entry, spread)}"


def _retained(entry: Entry) -> str:
    return form(entry.retained.value, 100, " %", 1)


def _speedup(entry: Entry) -> str:
    spread = entry.speedup
    ends = "" if spread.low is None or spread.high is None else f" ({spread.low:.2f}–{spread.high:.2f})"
    return f"{form(spread.value, unit='×')}{ends}{_mark(entry, spread)}"


def _mark(entry: Entry, spread: Spread) -> str:
    return f" {NOISE}" if spread.noise and not entry.is_dense else ""

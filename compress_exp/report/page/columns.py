"""The columns of the headline table: what sorts them and what they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compress_exp.outputs.records import runtime
from compress_exp.report.analysis.entries import Entry
from compress_exp.report.analysis.spread import Spread

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


def columns(
    entries: Sequence[Entry], metric: str, higher_is_better: bool, weights: Mapping[str, float]
) -> list[Column]:
    """The columns that say something about these entries."""
    arrow = "" if higher_is_better else " ↓"
    noise = f"{NOISE}: the difference from the dense model is within noise"
    made = [
        Column("run", "run", "methods in order, and what was set", _label, _label, False),
        Column("model", "model", "the pretrained model", _model, _model, False),
        Column("seeds", "seeds", "how many; from two on intervals are over seeds", _seeds, lambda e: str(_seeds(e))),
        Column("quality", f"{metric}{arrow}", f"mean and 95 % interval; {noise}", lambda e: e.quality.value, _quality),
        Column("retained", "kept", "share of the dense model's quality", lambda e: e.retained, _retained),
        _number("size", "MB", "weights and configuration on disk, 10⁶ bytes", lambda e: e.artifact_bytes, 1e-6),
        _number("ratio", "smaller", "compression ratio", lambda e: e.ratio, unit="×"),
        Column("runtime", "runtime", "where it was timed", _runtime, _runtime, False),
        _number("p50", "p50 ms", "median time of the headline shape", lambda e: e.p50),
        _number("p99", "p99 ms", "99th percentile of that time", lambda e: e.p99),
        Column(
            "speedup",
            "faster",
            f"the dense model's time over its own, with the 95 % interval; {noise}",
            lambda e: e.speedup.value,
            _speed,
        ),
        _number("memory", "RAM MB", "peak memory of a process that runs it", lambda e: e.memory, 1e-6, digits=0),
        _number("energy", "J / 1000", "joules for 1,000 examples", lambda e: e.energy),
        _number("score", "WS", "w_A·A + w_CR·CR + w_IS·IS", lambda e: e.score(weights)),
    ]
    empty = {"seeds": all(_seeds(entry) < 2 for entry in entries), "model": len({entry.model for entry in entries}) < 2}
    empty["runtime"] = all(runtime(record)[0] != "auto" for entry in entries for record in entry.records)
    empty |= {name: all(entry.__dict__[name] is None for entry in entries) for name in ("memory", "energy")}
    return [column for column in made if not empty.get(column.name)]


def form(value: float | None, factor: float = 1.0, unit: str = "", digits: int = 2) -> str:
    """A number as it is shown, a dash where there is none."""
    return NONE if value is None else f"{value * factor:,.{digits}f}{unit}"


def _number(
    name: str,
    title: str,
    hint: str,
    value: Callable[[Entry], float | None],
    factor: float = 1.0,
    unit: str = "",
    digits: int = 2,
) -> Column:
    return Column(name, title, hint, value, lambda entry: form(value(entry), factor, unit, digits))


def _label(entry: Entry) -> str:
    return entry.label


def _model(entry: Entry) -> str:
    return entry.model


def _runtime(entry: Entry) -> str:
    return entry.runtime


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
    return form(entry.retained, 100, " %", 1)


def _speed(entry: Entry) -> str:
    spread = entry.speedup
    ends = "" if spread.low is None or spread.high is None else f" ({spread.low:.2f}–{spread.high:.2f})"
    return f"{form(spread.value, unit='×')}{ends}{_mark(entry, spread)}"


def _mark(entry: Entry, spread: Spread) -> str:
    return f" {NOISE}" if spread.noise and not entry.is_dense else ""

"""What records say about one artifact, each number with the conditions under which it was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress_exp.outputs.records import Record, number, runtime
from compress_exp.report.analysis.badges import mark
from compress_exp.report.analysis.conditions import conditions
from compress_exp.report.analysis.describe import command
from compress_exp.report.analysis.entries import fold, primary
from compress_exp.report.analysis.majority import Majority
from compress_exp.report.card.lineage import stages

NONE = "–"
Cell = float | None


@dataclass(frozen=True)
class Measured:
    """What was measured under one set of conditions, once or by several runs.

    Attributes:
        dense: whether it was measured as the dense model of runs.
        conditions: in words.
        runs: names of the runs; with several, times and memory are medians over them.
        metric: the primary metric.
        higher_is_better: of the metric.
        value: of the primary metric.
        rows: examples evaluated.
        split: where they are from.
        quality: (metric, own, dense) rows of text.
        size: (what, own, dense) rows of text.
        latency: rows of text, one for each shape.
        other: (what, own, dense) rows of text: memory and energy.
        energy: why there is no energy; empty where there is one.
        badges: (name, sentence) for what deserves distrust.
        software: what measured it.
        command: makes it again; empty for the dense model.
    """

    dense: bool
    conditions: tuple[str, ...]
    runs: tuple[str, ...]
    metric: str
    higher_is_better: bool
    value: Cell
    rows: Cell
    split: str
    quality: tuple[tuple[str, str, str], ...]
    size: tuple[tuple[str, str, str], ...]
    latency: tuple[tuple[str, ...], ...]
    other: tuple[tuple[str, str, str], ...]
    energy: str
    badges: tuple[tuple[str, str], ...]
    software: str
    command: str


def measured(key: str, about: Sequence[Record], records: Sequence[Record], majority: Majority) -> list[Measured]:
    """What was measured of an artifact as the last of a run, or as a run's dense model.

    Args:
        key: of the artifact.
        about: the records that speak of it.
        records: these, and those of all runs that may be compared with it.
        majority: knows the most frequent classes.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in about:
        origin = record.get("origin") or {}
        for dense, part in ((False, "artifact"), (True, "baseline")):
            if origin.get(part) == key:
                groups.setdefault((dense, *conditions(record), *primary(record)), []).append(record)
    return [_measured(group, kind[0], records, majority) for kind, group in groups.items()]


def in_passing(key: str, records: Sequence[Record]) -> list[tuple[str, str]]:
    """Metrics of an artifact that was a stage of a longer pipeline: (run with its conditions, metrics)."""
    found = []
    for record in records:
        for row in stages(record)[:-1]:
            if row.get("artifact") == key and isinstance(row.get("quality"), Mapping):
                told = ", ".join(f"{name} {_digits(value)}" for name, value in row["quality"].items())
                found.append((" · ".join([_name(record), *conditions(record)]), told))
    return found


def _measured(group: Sequence[Record], dense: bool, records: Sequence[Record], majority: Majority) -> Measured:
    first, (metric, higher) = group[0], primary(group[0])
    quality = first["quality"]
    energy, origin = first.get("energy") or {}, first.get("origin") or {}
    own, interval = ("baseline", "baseline_interval") if dense else ("metrics", "interval")
    value = number(quality, own, metric) if dense else number(quality, "primary", "value")
    joules = number(energy, "baseline_joules_per_1000" if dense else "joules_per_1000")
    versions = origin.get("versions") or {}
    software = {"compress_exp": origin.get("compress_exp"), "commit": origin.get("commit"), **versions}
    return Measured(
        dense=dense,
        conditions=conditions(first),
        runs=tuple(dict.fromkeys(map(_name, group))),
        metric=metric,
        higher_is_better=higher,
        value=value,
        rows=number(quality, "rows"),
        split=str(quality.get("split") or ""),
        quality=tuple(_quality(quality, own, metric, interval, dense)),
        size=tuple(_sizes(first, dense)),
        latency=tuple(_latencies(group, dense)),
        other=tuple(_others(group, dense)),
        energy="" if joules is not None else str(energy.get("reason") or "it was not measured"),
        badges=tuple(_badges(first, dense, records, majority)),
        software=", ".join(f"{name} {value}" for name, value in software.items() if value),
        command="" if dense else command(first),
    )


def _quality(
    quality: Mapping[str, Any], own: str, metric: str, interval: str, dense: bool
) -> Iterator[tuple[str, str, str]]:
    found = quality.get(own)
    names = [metric, *(name for name in found if name != metric)] if isinstance(found, Mapping) else [metric]
    for name in names:
        value = number(quality, own, name)
        if name == metric and not dense:
            value = number(quality, "primary", "value")
        yield name, _digits(value), _digits(number(quality, "baseline", name))
    ends = _ends(quality.get(interval)), _ends(quality.get("baseline_interval"))
    yield f"95 % interval of {metric}", *ends
    if not dense:
        yield "kept of the dense model's", _percent(number(quality, "retained")), "100 %"
        yield "same answer as the dense model", _percent(number(quality, "agreement", "same")), NONE
        yield "mean KL divergence from it", _digits(number(quality, "agreement", "kl")), NONE


def _sizes(record: Record, dense: bool) -> Iterator[tuple[str, str, str]]:
    size, prefix = record["size"], "baseline_" if dense else ""
    _, own, base = runtime(record)
    yield "timed in", str(base if dense else own), str(base)
    for title, name in (
        ("weights and configuration", "artifact_bytes"),
        ("files that the runtime loads", "deployed_bytes"),
    ):
        yield title, _bytes(number(size, f"{prefix}{name}")), _bytes(number(size, f"baseline_{name}"))
    if dense:
        return
    yield "compression ratio", _digits(number(size, "compression_ratio"), "×"), "1×"
    yield "tokenizer", _bytes(number(size, "tokenizer_bytes")), NONE
    yield "parameters", _count(number(size, "parameters")), NONE
    yield "of them not zero", _count(number(size, "nonzero_parameters")), NONE
    yield "bits per weight", _digits(number(size, "bits_per_weight")), NONE


def _latencies(group: Sequence[Record], dense: bool) -> Iterator[tuple[str, ...]]:
    """Shape, p50, p90, p99 and examples per second; beside the dense model also what was gained."""
    found = group[0]["latency"].get("rows")
    for index, row in enumerate(found if isinstance(found, list) else []):
        shape = number(row, "batch_size"), number(row, "length")
        path = ("baseline",) if dense else ()

        def middle(*names: str | int, index: int = index, shape: tuple[Cell, Cell] = shape) -> Cell:
            rows = [
                number(record, "latency", "rows", index, *names) for record in group if _shape(record, index) == shape
            ]
            return _median(rows)

        cells = [f"{_count(shape[0])} × {_count(shape[1])}"]
        cells += [_digits(middle(*path, name)) for name in ("p50_ms", "p90_ms", "p99_ms", "throughput")]
        cells += [_digits(number(row, "repeats"))]
        if not dense:
            cells += [_digits(middle("baseline", "p50_ms")), _gain(group, row, middle, "speedup")]
            cells += [_gain(group, row, middle, "speedup_over_eager")]
        yield tuple(cells)


def _gain(group: Sequence[Record], row: Any, middle: Callable[..., Cell], name: str) -> str:
    ends = _ends(row.get(f"{name}_interval")) if len(group) == 1 else NONE
    return _digits(middle(name), "×") + ("" if ends == NONE else f" ({ends})")


def _others(group: Sequence[Record], dense: bool) -> Iterator[tuple[str, str, str]]:
    prefix = "baseline_" if dense else ""
    for title, block, name, form in (
        ("peak memory of a process that runs it", "memory", "peak_rss_bytes", _bytes),
        ("peak memory of the device", "memory", "device_bytes", _bytes),
        ("joules per 1,000 examples", "energy", "joules_per_1000", _digits),
    ):
        own = _median([number(record, block, f"{prefix}{name}") for record in group])
        base = _median([number(record, block, f"baseline_{name}") for record in group])
        if own is not None:
            yield title, form(own), form(base)


def _badges(record: Record, dense: bool, records: Sequence[Record], majority: Majority) -> list[tuple[str, str]]:
    """Those of this one record; others of its seed and conditions are the controls it is compared with."""
    told = conditions(record), record["run"].get("seed"), record["run"].get("task"), primary(record)
    alike = [other for other in records if other is not record]
    alike = [
        other
        for other in alike
        if (conditions(other), other["run"].get("seed"), other["run"].get("task"), primary(other)) == told
    ]
    entries = fold([record, *alike])
    mark(entries, majority)
    return next(
        (entry.badges for entry in entries if entry.is_dense == dense and (dense or entry.records[0] is record)), []
    )


def _shape(record: Record, index: int) -> tuple[Cell, Cell]:
    row = ("latency", "rows", index)
    return number(record, *row, "batch_size"), number(record, *row, "length")


def _name(record: Record) -> str:
    return str(record["run"].get("name") or record["run"]["id"])


def _median(values: Sequence[Cell]) -> Cell:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _digits(value: Any, unit: str = "") -> str:
    return NONE if number([value], 0) is None else f"{value:.5g}{unit}"


def _percent(value: Cell) -> str:
    return NONE if value is None else f"{100 * value:.5g} %"


def _count(value: Cell) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _bytes(value: Cell) -> str:
    return NONE if value is None else f"{value:,.0f} B ({value / 1e6:.2f} MB)"


def _ends(ends: Any) -> str:
    low, high = number(ends, 0), number(ends, 1)
    return NONE if low is None or high is None else f"{low:.4g} – {high:.4g}"

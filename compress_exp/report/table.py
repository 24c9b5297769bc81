"""Records as rows: one for each run, and one for the dense baseline that several runs share."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from compress_exp.outputs.records import Record, number, runtime
from compress_exp.outputs.score import combine, unit_quality

Row = dict[str, Any]
BASELINE = "baseline"
TIMING = ("task", "model", "hardware", "machine", "runtime", "threads", "batch_size", "length", "metric")
SETTING = (*TIMING, "rows", "split", "data", "train_data")
APART = (*SETTING, "dense")
OF_DENSE = ("train.", "task.", "model.", "+train.", "+task.", "+model.")


def rows(records: Sequence[Record]) -> list[Row]:
    """Flat rows in the order of the records, each group of runs after its baseline.

    Runs share a baseline row when task, model, the conditions of timing (hardware, machine, runtime, threads, headline
    batch size and length), the data, seed, the baseline's artifact and its quality (which depends on the rows
    evaluated) are the same. Its latency is the median over them, since each run timed it anew. Of dense models that
    differ in more than their seed, "dense" says in what.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(json.dumps(_group(record), default=str), []).append(record)
    table = []
    for group, dense in zip(groups.values(), _dense_models(list(groups.values())), strict=True):
        made = [_baseline(group), *_named(_run(record) for record in group)]
        table += [row | {"dense": dense} for row in made]
    return sorted(table, key=lambda row: [str(row[name]) for name in APART])


def _dense_models(groups: Sequence[Sequence[Record]]) -> list[str]:
    """What was set for each group's dense model and not for all others under the same conditions."""
    settings = [json.dumps(_setting(group[0]), default=str) for group in groups]
    given = [set.intersection(*(_of_dense(record["run"]) for record in group)) for group in groups]
    told = []
    for own, setting in zip(given, settings, strict=True):
        shared = set.intersection(*(other for other, where in zip(given, settings, strict=True) if where == setting))
        told.append(" ".join(sorted(own - shared)))
    return told


def _of_dense(run: Record) -> set[str]:
    return {item for item in _changes(run).split() if item.startswith(OF_DENSE)}


def _named(runs: Iterable[Row]) -> list[Row]:
    """Runs that say only what sets them apart from the others."""
    named = list(runs)
    shared = set.intersection(*(set(row["changes"].split()) for row in named))
    for row in named:
        row["changes"] = " ".join(change for change in row["changes"].split() if change not in shared)
    return named


def _group(record: Record) -> list[Any]:
    run = record["run"]
    dense = _mapping(record.get("origin")).get("baseline")
    return [*(_setting(record)[name] for name in SETTING), run.get("seed"), dense, _digits(_dense_quality(record))]


def _setting(record: Record) -> Row:
    run, origin = record["run"], _mapping(record.get("origin"))
    primary, ran = _mapping(record["quality"].get("primary")), _mapping(run.get("runtime"))
    headline = _headline(record)
    return {
        "task": run.get("task"),
        "model": run.get("model"),
        "hardware": run.get("hardware"),
        "machine": origin.get("host"),
        "runtime": runtime(record)[0],
        "threads": number(ran, "threads"),
        "batch_size": number(headline, "batch_size"),
        "length": number(headline, "length"),
        "metric": primary.get("name"),
        "higher_is_better": primary.get("higher_is_better", True),
        "rows": number(record["quality"], "rows"),
        "split": record["quality"].get("split"),
        "data": _short(_mapping(record["quality"].get("settings")).get("rows")),
        "train_data": _short(_mapping(origin.get("data")).get("train")),
    }


def _short(digest: Any) -> str | None:
    return None if digest is None else str(digest)[:8]


def _run(record: Record) -> Row:
    run, quality, size = record["run"], record["quality"], record["size"]
    headline = _headline(record)
    method = run.get("method")
    return {
        **_setting(record),
        "run": " → ".join(map(str, method)) if isinstance(method, list) else str(method),
        "changes": _changes(run),
        "id": run["id"],
        "seed": run.get("seed"),
        "loss": run.get("loss"),
        "quality": number(quality, "primary", "value"),
        "quality_low": number(quality, "interval", 0),
        "quality_high": number(quality, "interval", 1),
        "retained": number(quality, "retained"),
        "artifact_bytes": number(size, "artifact_bytes"),
        "compression_ratio": number(size, "compression_ratio"),
        "deployed_bytes": number(size, "deployed_bytes"),
        "sparsity": number(size, "sparsity"),
        "bits_per_weight": number(size, "bits_per_weight"),
        "ran_in": runtime(record)[1],
        "p50_ms": number(headline, "p50_ms"),
        "p99_ms": number(headline, "p99_ms"),
        "speedup": number(headline, "speedup"),
        "speedup_low": number(headline, "speedup_interval", 0),
        "speedup_high": number(headline, "speedup_interval", 1),
        "speedup_same_runtime": number(headline, "speedup_same_runtime"),
        "speedup_over_eager": number(headline, "speedup_over_eager"),
        "peak_memory_bytes": _memory(record),
        "joules_per_1000": number(record, "energy", "joules_per_1000"),
        "WS": number(record, "score", "WS"),
        "flags": "; ".join(map(str, record.get("flags") or [])),
    }


def _baseline(group: Sequence[Record]) -> Row:
    first = group[0]
    quality, size = first["quality"], first["size"]
    eager = [
        over / speedup
        for over, speedup in ((_of(record, "speedup_over_eager"), _of(record, "speedup")) for record in group)
        if over is not None and speedup
    ]
    primary, value = _mapping(quality.get("primary")), _dense_quality(first)
    weights = _mapping(_mapping(first.get("score")).get("weights"))
    row = dict.fromkeys(_run(first)) | _setting(first)
    score = None
    if value is not None and set(weights) == {"accuracy", "compression", "speed"}:
        unit = unit_quality(str(primary.get("name")), value, value, bool(primary.get("higher_is_better", True)))
        score = combine(unit, 1.0, 1.0, weights)
    return row | {
        "run": BASELINE,
        "changes": "",
        "seed": first["run"].get("seed"),
        "quality": value,
        "quality_low": number(quality, "baseline_interval", 0),
        "quality_high": number(quality, "baseline_interval", 1),
        "retained": 1.0 if value is not None else None,
        "artifact_bytes": number(size, "baseline_artifact_bytes"),
        "compression_ratio": 1.0,
        "deployed_bytes": number(size, "baseline_deployed_bytes"),
        "ran_in": ", ".join(sorted({str(runtime(record)[2]) for record in group})),
        "p50_ms": _median(_of(record, "baseline", "p50_ms") for record in group),
        "p99_ms": _median(_of(record, "baseline", "p99_ms") for record in group),
        "speedup": 1.0,
        "speedup_same_runtime": 1.0,
        "speedup_over_eager": _median(eager),
        "peak_memory_bytes": _median(_memory(record, "baseline_") for record in group),
        "joules_per_1000": _median(number(record, "energy", "baseline_joules_per_1000") for record in group),
        "WS": score,
        "flags": "",
    }


def _changes(run: Record) -> str:
    """What was set for this run beside the choices that have columns of their own."""
    own = ("method=", "model=", "task=", "hardware=", "tracking=", "seed=", "loss=", "outputs=", "hydra")
    overrides = [str(item) for item in run.get("overrides") or []]
    kept = [item for item in overrides if not item.startswith((*own, "task.data_dir=", "model.path="))]
    return " ".join(item.removeprefix("method.") for item in kept)


def _headline(record: Record) -> Record:
    found = record["latency"].get("rows")
    return _mapping(found[0]) if isinstance(found, list) and found else {}


def _digits(value: float | None) -> str:
    """A quality without the digits in which runtimes differ."""
    return "" if value is None else f"{value:.4g}"


def _dense_quality(record: Record) -> float | None:
    name = _mapping(record["quality"].get("primary")).get("name")
    return number(record["quality"], "baseline", str(name))


def _memory(record: Record, prefix: str = "") -> float | None:
    """Peak bytes on the device, or of the process where there is none of its own."""
    device = number(record, "memory", f"{prefix}device_bytes")
    return device if device is not None else number(record, "memory", f"{prefix}peak_rss_bytes")


def _of(record: Record, *path: str) -> float | None:
    return number(_headline(record), *path)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _mapping(node: Any) -> Record:
    return node if isinstance(node, dict) else {}

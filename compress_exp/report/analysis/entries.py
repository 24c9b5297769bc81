"""Runs as entries: what differs in nothing but the seed is one entry, and every dense model is one as well."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compress_exp.outputs.records import Record, number, runtime
from compress_exp.outputs.score import combine, unit_quality
from compress_exp.report.analysis.describe import command, configuration, methods, settings
from compress_exp.report.analysis.spread import Spread, mean, of_pairs, of_ratios

DENSE = "dense"
WEIGHTS = ("accuracy", "compression", "speed")


@dataclass
class Entry:
    """One configuration over its seeds, or the dense model that some of them share.

    Attributes:
        method: its methods in order, "dense" for the dense model.
        changes: what was set beside its methods and is not the same everywhere.
        model: its name.
        records: one for each seed; of the dense model those that were compared with it.
        dense_quality: mean of the dense models it is compared with.
        quality: the primary metric.
        retained: share of the dense model's quality.
        artifact_bytes: weights and configuration on disk.
        ratio: the dense model's bytes / its own.
        p50: median milliseconds of the headline shape.
        p99: the same at the 99th percentile.
        runtime: where it was timed.
        speedup: the dense model's time / its own, each in the runtime it was timed in.
        memory: peak bytes.
        energy: joules per 1,000 examples.
        accuracy: A of the weighted score.
        badges: (name, sentence) for everything that deserves distrust.
    """

    method: str
    changes: str
    model: str
    records: list[Record]
    dense_quality: float | None = None
    quality: Spread = Spread()
    retained: float | None = None
    artifact_bytes: float | None = None
    ratio: float | None = None
    runtime: str = ""
    p50: float | None = None
    p99: float | None = None
    speedup: Spread = Spread()
    memory: float | None = None
    energy: float | None = None
    accuracy: float | None = None
    badges: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_dense(self) -> bool:
        """Whether it is a dense model."""
        return self.method == DENSE

    @property
    def label(self) -> str:
        """Method and changes."""
        return f"{self.method} {self.changes}".strip()

    @property
    def seeds(self) -> list[str]:
        """The seeds, each once."""
        return list(dict.fromkeys(str(record["run"].get("seed")) for record in self.records))

    @property
    def command(self) -> str:
        """Makes its first seed again; nothing for the dense model, which comes with every run."""
        return "" if self.is_dense else command(self.records[0])

    @property
    def configuration(self) -> list[str]:
        """All settings, a line for each method."""
        return [] if self.is_dense else configuration(self.records[0])

    def score(self, weights: Mapping[str, float]) -> float | None:
        """WS: the mean of its seeds' scores, since the score is linear in its parts."""
        return combine(self.accuracy, self.ratio, self.speedup.value, weights)


def fold(records: Sequence[Record]) -> list[Entry]:
    """The entries of runs measured under the same conditions, each dense model before what is compared with it."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        key, again = _identity(record), 0
        while any(_seed(other) == _seed(record) for other in groups.get((key, again), [])):
            again += 1
        groups.setdefault((key, again), []).append(record)
    entries = [_entry(group) for group in groups.values()]
    for entry, changes in zip(entries, _told_apart([settings(entry.records[0]) for entry in entries]), strict=True):
        entry.changes = changes
    return [entry for related in _families(entries) for entry in (_dense(related), *related)]


def headline(record: Record) -> Record:
    """The first row of its latencies."""
    found = record["latency"].get("rows")
    return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}


def primary(record: Record) -> tuple[str, bool]:
    """Name of the primary metric, and whether higher is better."""
    block = record["quality"].get("primary")
    block = block if isinstance(block, Mapping) else {}
    return str(block.get("name")), bool(block.get("higher_is_better", True))


def weights_of(records: Iterable[Record]) -> dict[str, float]:
    """The weights of the score that the records were made with; 1 where a record has none."""
    for record in records:
        given = [number(record, "score", "weights", name) for name in WEIGHTS]
        if None not in given:
            return {name: value for name, value in zip(WEIGHTS, given, strict=True) if value is not None}
    return dict.fromkeys(WEIGHTS, 1.0)


def dense_quality(record: Record) -> float | None:
    """The baseline's primary metric."""
    return number(record["quality"], "baseline", primary(record)[0])


def _identity(record: Record) -> str:
    run, known = record["run"], methods(record)
    others = settings(record)
    if known:
        others = [
            item for item in others if not item.lstrip("+~").startswith(("method", "loss", "stages", "model=", "task="))
        ]
    return json.dumps([run.get("model"), run.get("method"), run.get("loss"), known, others], default=str)


def _seed(record: Record) -> str:
    return str(record["run"].get("seed"))


def _told_apart(everything: Sequence[list[str]]) -> list[str]:
    """What each has and not all have, without the choices that have columns of their own."""
    own = ("method=", "model=", "task=", "hardware=", "task.data_dir=", "model.path=")
    shared = set.intersection(*map(set, everything)) if everything else set()
    kept = [[item for item in items if item not in shared and not item.startswith(own)] for items in everything]
    return [" ".join(item.removeprefix("method.") for item in items) for items in kept]


def _entry(group: list[Record]) -> Entry:
    first = group[0]
    name, higher = primary(first)
    values = [number(record["quality"], "primary", "value") for record in group]
    dense = [dense_quality(record) for record in group]
    pairs = [(own, base) for own, base in zip(values, dense, strict=True) if own is not None and base is not None]
    valued = next((record for record, own in zip(group, values, strict=True) if own is not None), first)
    quality = of_pairs(pairs, _own_interval(valued, "interval"), _own_interval(valued, "baseline_interval"))
    if quality.value is None:
        quality = Spread(mean(values))
    kept = mean([number(record["quality"], "retained") for record in group])
    ratios = [value for record in group if (value := number(headline(record), "speedup")) is not None]
    unit = [unit_quality(name, own, base, higher) for own, base in zip(values, dense, strict=True)]
    method = first["run"].get("method")
    return Entry(
        method=" → ".join(map(str, method)) if isinstance(method, list) else str(method),
        changes="",
        model=str(first["run"].get("model")),
        records=group,
        dense_quality=mean(dense),
        quality=quality,
        retained=kept,
        artifact_bytes=_mean(group, "size", "artifact_bytes"),
        ratio=_mean(group, "size", "compression_ratio"),
        runtime=_runtimes(group, 1),
        p50=mean([number(headline(record), "p50_ms") for record in group]),
        p99=mean([number(headline(record), "p99_ms") for record in group]),
        speedup=of_ratios(ratios, *(number(headline(first), "speedup_interval", end) for end in (0, 1))),
        memory=_memory(group, ""),
        energy=_mean(group, "energy", "joules_per_1000"),
        accuracy=mean(unit),
    )


def _dense(entries: Sequence[Entry]) -> Entry:
    """The dense model, each of whose seeds counts once; its time is the median, since every run timed it anew."""
    records = [record for entry in entries for record in entry.records]
    seeds = list({_baseline(record) or _seed(record): record for record in records}.values())
    values = [value for record in seeds if (value := dense_quality(record)) is not None]
    name, higher = primary(records[0])
    single = _own_interval(seeds[0], "baseline_interval")
    quality = of_pairs([(value, value) for value in values], single, single)
    unit = [unit_quality(name, value, value, higher) for value in values]
    return Entry(
        method=DENSE,
        changes="",
        model=entries[0].model,
        records=seeds,
        dense_quality=quality.value,
        quality=Spread(quality.value, quality.low, quality.high),
        retained=1.0 if values else None,
        artifact_bytes=_mean(seeds, "size", "baseline_artifact_bytes"),
        ratio=1.0,
        runtime=_runtimes(records, 2),
        p50=_median(number(headline(record), "baseline", "p50_ms") for record in records),
        p99=_median(number(headline(record), "baseline", "p99_ms") for record in records),
        speedup=Spread(1.0),
        memory=_memory(records, "baseline_"),
        energy=_mean(records, "energy", "baseline_joules_per_1000"),
        accuracy=mean(unit),
    )


def _families(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that have a dense model in common, over any of their seeds."""
    families: list[tuple[set[str], list[Entry]]] = []
    for entry in entries:
        keys = {f"{entry.model} {_baseline(record) or ''}" for record in entry.records}
        joined = [family for family in families if family[0] & keys]
        families = [family for family in families if not family[0] & keys]
        families.append((keys.union(*(family[0] for family in joined)), [e for f in joined for e in f[1]] + [entry]))
    return [family for _, family in families]


def _baseline(record: Record) -> str | None:
    origin = record.get("origin")
    key = origin.get("baseline") if isinstance(origin, Mapping) else None
    return None if key is None else str(key)


def _own_interval(record: Record, name: str) -> Spread:
    quality = record["quality"]
    return Spread(None, number(quality, name, 0), number(quality, name, 1))


def _runtimes(records: Sequence[Record], which: int) -> str:
    """Where the models of some records were timed: 1 their own, 2 the dense one."""
    return ", ".join(sorted({str(name) for record in records if (name := runtime(record)[which]) is not None}))


def _memory(records: Sequence[Record], prefix: str) -> float | None:
    device = _mean(records, "memory", f"{prefix}device_bytes")
    return device if device is not None else _mean(records, "memory", f"{prefix}peak_rss_bytes")


def _mean(records: Sequence[Record], *path: str) -> float | None:
    return mean([number(record, *path) for record in records])


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def plain(value: Any) -> Any:
    """A number for JSON with what can be seen of its digits."""
    return float(f"{value:.6g}") if isinstance(value, float) else value

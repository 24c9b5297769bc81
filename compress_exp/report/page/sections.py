"""A section of the page: one task under one set of conditions, with its entries and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress_exp.outputs.records import Record
from compress_exp.report.analysis.badges import mark
from compress_exp.report.analysis.conditions import conditions
from compress_exp.report.analysis.entries import DENSE, Entry, fold, plain, primary
from compress_exp.report.analysis.majority import Majority
from compress_exp.report.page.bars import bars
from compress_exp.report.page.columns import NOISE, Column, columns, form
from compress_exp.report.page.cost import cost, scale, seconds
from compress_exp.report.page.curves import Histories
from compress_exp.report.page.hover import hover
from compress_exp.report.page.latency import latency
from compress_exp.report.page.parallel import parallel
from compress_exp.report.page.scatter import best, megabytes, milliseconds, scatter
from compress_exp.report.page.style import Style
from compress_exp.report.page.waterfall import measured, steps, waterfalls

GOOD = 0.99


@dataclass(frozen=True)
class Section:
    """One task under one set of conditions.

    Attributes:
        task: its name.
        metric: the primary metric.
        higher_is_better: of the metric.
        conditions: how it was measured, in words.
        records: of all its runs.
        entries: the records with their seeds folded, and the dense models.
    """

    task: str
    metric: str
    higher_is_better: bool
    conditions: tuple[str, ...]
    records: tuple[Record, ...]
    entries: tuple[Entry, ...]

    def methods(self) -> list[str]:
        """Of its entries, in alphabetic order, the dense model first."""
        return sorted({entry.method for entry in self.entries}, key=lambda name: (name != DENSE, name))

    def models(self) -> list[str]:
        """Of its entries, in alphabetic order."""
        return sorted({entry.model for entry in self.entries})

    def columns(self, weights: Mapping[str, float]) -> list[Column]:
        """Of its table."""
        return columns(self.entries, self.metric, self.higher_is_better, weights)

    def ranked(self, weights: Mapping[str, float]) -> list[int]:
        """Its entries by their score, the best first; those without one last."""
        scores = [entry.score(weights) for entry in self.entries]
        return sorted(range(len(scores)), key=lambda index: -scores[index] if scores[index] is not None else 1e300)  # type: ignore[operator]

    def fronts(self) -> list[tuple[str, list[int]]]:
        """What is on the two Pareto fronts."""
        return [
            ("size and quality", best(self.entries, megabytes, self.higher_is_better)),
            ("latency and quality", best(self.entries, milliseconds, self.higher_is_better)),
        ]

    def hours(self) -> str:
        """How long all of it took."""
        spent = sum(value for parts in seconds(self.records).values() for value in parts.values())
        unit, size = scale(spent)
        return f"{spent / size:.3g} {unit}"

    def cards(self, weights: Mapping[str, float]) -> list[tuple[str, str, int]]:
        """The findings to begin with: (what, how much, entry)."""
        runs = [index for index, entry in enumerate(self.entries) if not entry.is_dense]
        good = [index for index in runs if (self.entries[index].retained or 0) >= GOOD]
        made: list[tuple[str, str, int]] = []
        scored = [(score, index) for index in runs if (score := self.entries[index].score(weights)) is not None]
        if scored:
            score, index = max(scored, key=lambda item: (item[0], -item[1]))
            made.append(("best weighted score", form(score), index))
        small = [(ratio, index) for index in good if (ratio := self.entries[index].ratio) is not None]
        if small:
            ratio, index = max(small, key=lambda item: (item[0], -item[1]))
            made.append(("smallest that keeps 99 %", form(ratio, unit="× smaller"), index))
        quick = [(speed, index) for index in good if (speed := self.entries[index].speedup.value) is not None]
        if quick:
            speed, index = max(quick, key=lambda item: (item[0], -item[1]))
            doubt = f" {NOISE}" if self.entries[index].speedup.noise else ""
            made.append(
                ("fastest that keeps 99 %", form(speed, unit="× faster" if speed >= 1 else "× as fast") + doubt, index)
            )
        return made

    def data(self, style: Style, histories: Histories) -> dict[str, Any]:
        """What the page's script knows of it; indices are those of `entries`."""
        by_artifact = measured(self.entries)
        name, higher, entries = self.metric, self.higher_is_better, self.entries
        return {
            "entries": [self._facts(entry, by_artifact, histories) for entry in entries],
            "higher": higher,
            "figures": {
                "size": scatter(entries, megabytes, "size, MB", name, higher, style),
                "latency": scatter(entries, milliseconds, "p50, ms", name, higher, style),
                "parallel": parallel(entries, name, style),
                "bars": bars(entries, name, higher, style),
                "shapes": latency(entries, style),
                "cost": cost(self.records),
            },
        }

    def _facts(self, entry: Entry, by_artifact: Mapping[str, Record], histories: Histories) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "label": entry.label,
            "model": entry.model,
            "dense": entry.is_dense,
            "A": plain(entry.accuracy),
            "CR": plain(entry.ratio),
            "IS": plain(entry.speedup.value),
            "bytes": entry.artifact_bytes,
            "retained": entry.retained,
            "p50": entry.p50,
            "quality": entry.quality.value,
            "hover": hover(entry, self.metric),
            "badges": entry.badges,
        }
        if entry.is_dense:
            return facts
        path = steps(entry.records[0], by_artifact)
        return facts | {
            "command": entry.command,
            "configuration": entry.configuration,
            "seeds": entry.seeds,
            "runs": [str(record["run"].get("name") or record["run"]["id"]) for record in entry.records],
            "waterfalls": waterfalls(path, self.metric, self.higher_is_better),
            "chains": [chain for record in entry.records if (chain := histories.chain(record))],
        }


def sections(records: Sequence[Record], majority: Majority) -> list[Section]:
    """The sections by task, those with the most runs first within a task."""
    groups: dict[tuple[str, str, bool, tuple[str, ...]], list[Record]] = {}
    for record in records:
        key = (str(record["run"].get("task")), *primary(record), conditions(record))
        groups.setdefault(key, []).append(record)
    made = []
    for (task, metric, higher, told), group in sorted(
        groups.items(), key=lambda item: (item[0][0], -len(item[1]), item[0])
    ):
        entries = fold(group)
        mark(entries, majority)
        made.append(Section(task, metric, higher, told, tuple(group), tuple(entries)))
    return made

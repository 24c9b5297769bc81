"""What each stage of a pipeline cost in quality, and brought in bytes and milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress_exp.outputs.records import Record, number
from compress_exp.report.analysis.entries import Entry, dense_quality, headline, primary
from compress_exp.report.page.style import GREY, text

GOOD, BAD = "#2fa66a", "#d6455d"


@dataclass(frozen=True)
class Step:
    """The model after a stage; what nobody measured there is None.

    Attributes:
        label: the stage's methods.
        quality: the primary metric.
        megabytes: on disk.
        milliseconds: the dense model's time of this run / the speed-up measured for that artifact.
    """

    label: str
    quality: float | None
    megabytes: float | None
    milliseconds: float | None


def measured(entries: Sequence[Entry]) -> dict[str, Record]:
    """The records of entries under one set of conditions by the artifact that they measured."""
    found: dict[str, Record] = {}
    for entry in entries:
        for record in entry.records if not entry.is_dense else ():
            found.setdefault(str(_mapping(record.get("origin")).get("artifact")), record)
    return found


def steps(record: Record, others: Mapping[str, Record]) -> list[Step]:
    """The dense model and the model after each stage.

    Args:
        record: of the pipeline.
        others: records of other runs by artifact, for stages that are runs of their own.
    """
    dense_ms = number(headline(record), "baseline", "p50_ms")
    name = primary(record)[0]
    size = number(record, "size", "baseline_artifact_bytes")
    made = [Step("dense", dense_quality(record), _mega(size), dense_ms)]
    stages = record.get("stages")
    rows = [row for row in stages if isinstance(row, dict)] if isinstance(stages, list) else []
    for index, row in enumerate(rows):
        own = record if index == len(rows) - 1 else others.get(str(row.get("artifact")))
        value = number(own, "quality", "primary", "value") if own is not None else number(row, "quality", name)
        speed = number(headline(own), "speedup") if own is not None else None
        label = "+".join(map(str, row.get("methods") or []))
        time = dense_ms / speed if dense_ms is not None and speed else None
        made.append(Step(label, value, _mega(number(row, "bytes")), time))
    return made


def waterfalls(path: Sequence[Step], metric: str, higher_is_better: bool) -> list[dict[str, Any]]:
    """Three figures: quality, size and latency; one without two numbers is left out."""
    columns = [
        (metric, [step.quality for step in path], higher_is_better),
        ("size, MB", [step.megabytes for step in path], False),
        ("p50, ms", [step.milliseconds for step in path], False),
    ]
    labels = [step.label for step in path]
    figures = [waterfall(name, labels, values, more) for name, values, more in columns]
    return [figure for figure in figures if figure is not None]


def waterfall(
    name: str, labels: Sequence[str], values: Sequence[float | None], more_is_better: bool
) -> dict[str, Any] | None:
    """One figure; a stage that nobody measured is one step with the next that somebody did.

    It is written without Plotly's checks, which take longer than all else where there are hundreds.
    """
    known = merged(labels, values)
    if len(known) < 2:
        return None
    numbers = [value for _, value in known]
    changes = [numbers[0]] + [after - before for before, after in zip(numbers, numbers[1:], strict=False)]
    good, bad = {"marker": {"color": GOOD}}, {"marker": {"color": BAD}}
    trace = {
        "type": "waterfall",
        "x": [*(_lines(label) for label, _ in known), "result"],
        "y": [*changes, 0],
        "measure": ["absolute", *["relative"] * (len(changes) - 1), "total"],
        "text": [f"{numbers[0]:.4g}", *(f"{change:+.3g}" for change in changes[1:]), f"{numbers[-1]:.4g}"],
        "textposition": "outside",
        "cliponaxis": False,
        "increasing": good if more_is_better else bad,
        "decreasing": bad if more_is_better else good,
        "totals": {"marker": {"color": GREY}},
        "connector": {"line": {"color": GREY, "width": 1}},
        "hoverinfo": "x+text",
    }
    layout = {
        "showlegend": False,
        "xaxis": {"type": "category", "tickangle": 0, "tickfont": {"size": 10}},
        "yaxis": {"title": {"text": text(name)}, "range": _range(numbers)},
    }
    return {"data": [trace], "layout": layout}


def _lines(label: str) -> str:
    """A narrow label."""
    return text(label).replace("/", "/<br>").replace("_", "_<br>").replace(" → ", "<br>→ ")


def _range(numbers: Sequence[float]) -> list[float]:
    """From zero, unless the changes are too small beside the numbers to be seen."""
    low, high = min(numbers), max(numbers)
    if low > 0 and high - low < 0.25 * high:
        room = max(high - low, 0.01 * high)
        return [max(low - 1.5 * room, 0), high + 0.8 * room]
    room = 0.18 * (max(high, 0) - min(low, 0))
    return [min(low, 0) - room, max(high, 0) + room]


def merged(labels: Sequence[str], values: Sequence[float | None]) -> list[tuple[str, float]]:
    """The known values, each with the labels since the last one."""
    found: list[tuple[str, float]] = []
    waiting: list[str] = []
    for index, (label, value) in enumerate(zip(labels, values, strict=True)):
        waiting.append(label if labels.index(label) == index else f"{label} ({index})")
        if value is not None:
            found.append((" → ".join(waiting), value))
            waiting = []
    return found


def _mega(size: float | None) -> float | None:
    return None if size is None else size / 1e6


def _mapping(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else {}

"""Where the time of the sweep went; what several runs share counts once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from compress_exp.outputs.records import Record, number
from compress_exp.report.page.style import GREY, plain_figure, text

COMPRESSING, MEASURING, DENSE = "compressing", "measuring", "training the dense model"


def seconds(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Seconds by what was done and for which method; every artifact once, under the first run that went through it."""
    spent: dict[str, dict[str, float]] = {}
    built: set[str] = set()
    for record in records:
        origin = record.get("origin")
        dense = str(origin.get("baseline")) if isinstance(origin, dict) else "None"
        if dense not in built:
            built.add(dense)
            _add(spent, DENSE, str(record["run"].get("model")), number(record, "cost", "baseline_seconds"))
        stages = record.get("stages")
        for row in stages if isinstance(stages, list) else []:
            if isinstance(row, dict) and str(row.get("artifact")) not in built:
                built.add(str(row.get("artifact")))
                _add(spent, COMPRESSING, "+".join(map(str, row.get("methods") or [])), number(row, "seconds"))
        method = record["run"].get("method")
        label = " → ".join(map(str, method)) if isinstance(method, list) else str(method)
        _add(spent, MEASURING, label, number(record, "cost", "measuring_seconds"))
    return spent


def cost(records: Sequence[Record]) -> dict[str, Any] | None:
    """Horizontal bars, the longest on top; None if no time is known."""
    spent = seconds(records)
    totals: dict[str, float] = {}
    for parts in spent.values():
        for name, value in parts.items():
            totals[name] = totals.get(name, 0.0) + value
    if not totals:
        return None
    unit, size = scale(max(totals.values()))
    order = sorted(totals, key=lambda name: totals[name])
    colours = {DENSE: GREY, COMPRESSING: "#4c78d8", MEASURING: "#c79a12"}
    figure = go.Figure()
    for kind in (DENSE, COMPRESSING, MEASURING):
        parts = spent.get(kind, {})
        names = [name for name in order if name in parts]
        figure.add_bar(
            y=[_lines(name) for name in names],
            x=[parts[name] / size for name in names],
            orientation="h",
            name=kind,
            marker={"color": colours[kind]},
            hovertemplate=f"%{{y}}: %{{x:.3g}} {unit}",
        )
    figure.update_layout(
        barmode="stack",
        xaxis={"title": {"text": unit}},
        yaxis={
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [_lines(name) for name in order],
            "automargin": True,
        },
    )
    return plain_figure(figure)


def scale(longest: float) -> tuple[str, float]:
    """A unit in which so many seconds can be read, and its length."""
    return next(
        (unit, size) for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)) if longest >= size or size == 1
    )


def _lines(name: str) -> str:
    """A narrow label."""
    return text(name).replace(" → ", "<br>→ ")


def _add(spent: dict[str, dict[str, float]], kind: str, name: str, value: float | None) -> None:
    if value is not None:
        parts = spent.setdefault(kind, {})
        parts[name] = parts.get(name, 0.0) + value

"""Latency over batch size and length; the page draws the best configuration of every method that is not hidden."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from compress_exp.outputs.records import Record, number
from compress_exp.report.analysis.entries import Entry
from compress_exp.report.page.style import Style, log_axis, plain_figure, text, whose

Shape = tuple[int, int]


def by_shape(entry: Entry) -> dict[Shape, float]:
    """Milliseconds for each (batch size, length): the mean over seeds, of a dense model the median over timings."""
    path = ("baseline", "p50_ms") if entry.is_dense else ("p50_ms",)
    found: dict[Shape, list[float]] = {}
    for record in entry.records:
        for row in _rows(record):
            size, length, value = number(row, "batch_size"), number(row, "length"), number(row, *path)
            if size is not None and length is not None and value is not None:
                found.setdefault((int(size), int(length)), []).append(value)
    middle = statistics.median if entry.is_dense else statistics.fmean
    return {shape: middle(values) for shape, values in sorted(found.items())}


def latency(entries: Sequence[Entry], style: Style) -> dict[str, Any] | None:
    """One line for each entry; None if nothing was timed."""
    figure = go.Figure()
    timed = {index: times for index, entry in enumerate(entries) if (times := by_shape(entry))}
    several = len({entries[index].model for index in timed}) > 1
    for index, times in timed.items():
        entry = entries[index]
        name = text(f"{entry.method} · {entry.model}" if several else entry.method)
        figure.add_scatter(
            x=[f"{size} × {length}" for size, length in times],
            y=list(times.values()),
            mode="lines+markers",
            name=name,
            meta=whose(entry) | {"entry": index},
            line={"color": style.colour(entry.method), "width": 2, "dash": "dot" if entry.is_dense else "solid"},
            marker={"symbol": style.symbol(entry.model), "size": 8},
            hovertemplate=f"{name}<br>%{{x}} tokens: %{{y:.3g}} ms<extra></extra>",
        )
    if not figure.data:
        return None
    shapes = sorted({shape for times in timed.values() for shape in times})
    order = [f"{size} × {length}" for size, length in shapes]
    figure.update_layout(
        showlegend=False,
        xaxis={
            "type": "category",
            "categoryorder": "array",
            "categoryarray": order,
            "title": {"text": "batch size × tokens"},
        },
        yaxis=log_axis(value for times in timed.values() for value in times.values()) | {"title": {"text": "p50, ms"}},
    )
    return plain_figure(figure)


def _rows(record: Record) -> list[Record]:
    found = record["latency"].get("rows")
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []

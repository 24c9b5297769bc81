"""Parallel coordinates of size, quality, latency and speed-up, coloured by method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from compress_exp.report.analysis.entries import DENSE, Entry
from compress_exp.report.page.scatter import megabytes
from compress_exp.report.page.style import Style, plain_figure, text


def parallel(entries: Sequence[Entry], metric: str, style: Style) -> dict[str, Any] | None:
    """The figure of the entries that have all four numbers; None if none has."""
    axes = [("size, MB", megabytes), (metric, _quality), ("p50, ms", _p50), ("speed-up", _speedup)]
    complete = [(index, entry, [read(entry) for _, read in axes]) for index, entry in enumerate(entries)]
    numbers = [index for index, _, values in complete if None not in values]
    rows = [(entry, values) for _, entry, values in complete if None not in values]
    if not rows:
        return None
    methods = [name for name in (DENSE, *style.methods) if any(entry.method == name for entry, _ in rows)]
    edges = [(place, style.colour(name)) for index, name in enumerate(methods) for place in _band(index, len(methods))]
    figure = go.Figure(
        go.Parcoords(
            meta={
                "methods": [entry.method for entry, _ in rows],
                "models": [entry.model for entry, _ in rows],
                "entries": numbers,
            },
            line={
                "color": [methods.index(entry.method) for entry, _ in rows],
                "colorscale": edges,
                "cmin": -0.5,
                "cmax": len(methods) - 0.5,
            },
            dimensions=[
                {"label": text(name), "values": [values[index] for _, values in rows]}
                for index, (name, _) in enumerate(axes)
            ],
        )
    )
    return plain_figure(figure)


def _band(index: int, count: int) -> tuple[float, float]:
    return index / count, (index + 1) / count


def _quality(entry: Entry) -> float | None:
    return entry.quality.value


def _p50(entry: Entry) -> float | None:
    return entry.p50


def _speedup(entry: Entry) -> float | None:
    return entry.speedup.value

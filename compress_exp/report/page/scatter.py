"""A cost against quality: entries as points, the Pareto front, and where 99 % and 99.9 % of the baseline are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from compress_exp.report.analysis.entries import Entry
from compress_exp.report.analysis.pareto import front
from compress_exp.report.page.style import GREY, Style, log_axis, plain_figure, quality_axis, text, whose

FLOORS = (0.99, 0.999)
MANY_MODELS = 2
WIDE = 20

Cost = Callable[[Entry], float | None]


def megabytes(entry: Entry) -> float | None:
    """Size on disk in 10⁶ bytes."""
    return None if entry.artifact_bytes is None else entry.artifact_bytes / 1e6


def milliseconds(entry: Entry) -> float | None:
    """Median latency of the headline shape."""
    return entry.p50


def best(entries: Sequence[Entry], cost: Cost, higher_is_better: bool) -> list[int]:
    """The entries on the Pareto front of a cost and quality, the cheapest first."""
    sign = 1 if higher_is_better else -1
    points = [(cost(entry), None if (own := entry.quality.value) is None else sign * own) for entry in entries]
    return front(points)


def scatter(
    entries: Sequence[Entry], cost: Cost, title: str, metric: str, higher_is_better: bool, style: Style
) -> dict[str, Any]:
    """The figure; `customdata` of a point is the index of its entry.

    Args:
        entries: of one task under one set of conditions.
        cost: what is on the horizontal axis.
        title: of that axis.
        metric: the primary metric.
        higher_is_better: of the metric.
        style: of the page.
    """
    figure = go.Figure()
    order = best(entries, cost, higher_is_better)
    figure.add_scatter(
        x=[cost(entries[index]) for index in order],
        y=[entries[index].quality.value for index in order],
        mode="lines",
        line={"color": GREY, "width": 1.5, "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )
    groups: dict[tuple[str, str], list[int]] = {}
    for index, entry in enumerate(entries):
        if cost(entry) is not None and entry.quality.value is not None:
            groups.setdefault((entry.method, entry.model), []).append(index)
    for (method, model), members in sorted(groups.items(), key=lambda item: item[0]):
        figure.add_scatter(
            x=[cost(entries[index]) for index in members],
            y=[entries[index].quality.value for index in members],
            customdata=members,
            mode="markers",
            marker={
                "color": style.colour(method),
                "symbol": style.symbol(model),
                "size": [11 if index in order else 8 for index in members],
                "opacity": [1 if index in order else 0.6 for index in members],
                "line": {"width": [1.5 if index in order else 0 for index in members], "color": GREY},
            },
            name=text(method),
            meta=whose(entries[members[0]]),
            hoverinfo="none",
        )
    levels = floors(entries, higher_is_better)
    for floor, level, name in levels:
        figure.add_hline(
            y=level,
            line={"color": GREY, "width": 1, "dash": "dot" if floor == FLOORS[0] else "dash"},
            annotation={
                "text": text(f"{floor * 100:g} % of {name}"),
                "font": {"size": 10, "color": GREY},
                "yanchor": "top" if floor == FLOORS[0] else "bottom",
            },
            annotation_position="left",
            annotation_xanchor="left",
        )
    seen = [
        value for members in groups.values() for index in members if (value := entries[index].quality.value) is not None
    ]
    axis = quality_axis(metric, higher_is_better)
    if seen:
        axis = axis | {
            "range": _range([*seen, *(level for _, level, _ in levels)], higher_is_better),
            "autorange": False,
        }
    figure.update_layout(
        showlegend=False, xaxis=_cost_axis(title, [x for x in map(cost, entries) if x is not None]), yaxis=axis
    )
    return plain_figure(figure)


def _cost_axis(title: str, costs: Sequence[float]) -> dict[str, Any]:
    """From zero, or logarithmic where the costs are of different orders."""
    axis: dict[str, Any] = {"title": {"text": title}}
    if costs and min(costs) > 0 and max(costs) > WIDE * min(costs):
        return axis | log_axis(costs)
    return axis | {"rangemode": "tozero"}


def _range(values: Sequence[float], higher_is_better: bool) -> list[float]:
    room = 0.07 * (max(values) - min(values)) or 0.02 * abs(values[0]) or 0.01
    ends = [min(values) - room, max(values) + room]
    return ends if higher_is_better else ends[::-1]


def floors(entries: Sequence[Entry], higher_is_better: bool) -> list[tuple[float, float, str]]:
    """(share, quality, whose) for each level; with many models only those of the best dense model."""
    dense = [(entry.quality.value, entry.model) for entry in entries if entry.is_dense]
    known = sorted(
        ((value, model) for value, model in dense if value is not None and value > 0), reverse=higher_is_better
    )
    if len(known) > MANY_MODELS:
        known = known[:1]
    return [
        (share, value * share if higher_is_better else value / share, model)
        for value, model in known
        for share in FLOORS
    ]

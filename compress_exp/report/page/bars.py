"""Bars of quality for each model and method, by the best configuration of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from compress_exp.report.page.entries import Entry
from compress_exp.report.page.style import Style, plain_figure, text


def representatives(entries: Sequence[Entry], higher_is_better: bool) -> list[int]:
    """Of every model and method the entry with the best quality, the first of equals."""
    sign = 1 if higher_is_better else -1
    chosen: dict[tuple[str, str], int] = {}
    for index, entry in enumerate(entries):
        if entry.quality.value is None:
            continue
        key = (entry.model, entry.method)
        other = entries[chosen[key]].quality.value if key in chosen else None
        if other is None or sign * entry.quality.value > sign * other:
            chosen[key] = index
    return list(chosen.values())


def bars(entries: Sequence[Entry], metric: str, higher_is_better: bool, style: Style) -> dict[str, Any]:
    """The figure; `customdata` of a bar is the index of its entry."""
    figure = go.Figure()
    groups: dict[str, list[int]] = {}
    for index in representatives(entries, higher_is_better):
        groups.setdefault(entries[index].method, []).append(index)
    for method, members in groups.items():
        figure.add_bar(
            x=[text(entries[index].model) for index in members],
            y=[entries[index].quality.value for index in members],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [_above(entries[index]) for index in members],
                "arrayminus": [_below(entries[index]) for index in members],
                "thickness": 1,
                "width": 3,
            },
            customdata=members,
            name=text(method),
            marker={"color": style.colour(method)},
            hoverinfo="text",
        )
    arrow = "" if higher_is_better else " (lower is better)"
    figure.update_layout(barmode="group", xaxis={"type": "category"}, yaxis={"title": {"text": f"{text(metric)}{arrow}"}})
    return plain_figure(figure)


def _above(entry: Entry) -> float | None:
    spread = entry.quality
    return None if spread.high is None or spread.value is None else max(spread.high - spread.value, 0.0)


def _below(entry: Entry) -> float | None:
    spread = entry.quality
    return None if spread.low is None or spread.value is None else max(spread.value - spread.low, 0.0)

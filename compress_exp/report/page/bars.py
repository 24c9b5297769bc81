"""Bars of quality for each model and method; the page draws the best configuration of each that is not hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from compress_exp.report.analysis.entries import DENSE, Entry
from compress_exp.report.page.style import Style, plain_figure, text, whose

LABELLED = 12


def bars(entries: Sequence[Entry], metric: str, higher_is_better: bool, style: Style) -> dict[str, Any]:
    """The figure; `customdata` of a bar is the index of its entry."""
    figure = go.Figure()
    chosen = [index for index, entry in enumerate(entries) if entry.quality.value is not None]
    shown = len({(entries[index].model, entries[index].method) for index in chosen})
    for index in sorted(chosen, key=lambda index: (entries[index].method != DENSE, entries[index].method)):
        entry = entries[index]
        figure.add_bar(
            x=[text(entry.model)],
            y=[entry.quality.value],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [_above(entry)],
                "arrayminus": [_below(entry)],
                "thickness": 1,
                "width": 3,
                "color": "#5d6675",
            },
            text=[f"{entry.quality.value:.3g}"] if shown <= LABELLED else None,
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont={"color": "#ffffff"},
            textangle=0,
            customdata=[index],
            meta=whose(entry) | {"entry": index},
            name=text(entry.method),
            offsetgroup=text(entry.method),
            marker={"color": style.colour(entry.method)},
            hoverinfo="none",
        )
    arrow = "" if higher_is_better else " (lower is better)"
    figure.update_layout(
        showlegend=False,
        barmode="group",
        bargap=0.28,
        xaxis={"type": "category"},
        yaxis={"title": {"text": f"{text(metric)}{arrow}"}},
    )
    return plain_figure(figure)


def _above(entry: Entry) -> float | None:
    spread = entry.quality
    return None if spread.high is None or spread.value is None else max(spread.high - spread.value, 0.0)


def _below(entry: Entry) -> float | None:
    spread = entry.quality
    return None if spread.low is None or spread.value is None else max(spread.value - spread.low, 0.0)

"""Colours and marks that mean the same in every figure; what depends on light and dark is set by `page.js`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from compress_exp.report.analysis.entries import DENSE, Entry

COLOURS = ("#4c78d8", "#f2811d", "#2fa66a", "#d6455d", "#9467d8", "#12a5b8", "#c79a12", "#e377c2", "#7c9a3c", "#a0674b")
GREY = "#8a8f98"
SYMBOLS = {
    "circle": "●",
    "diamond": "◆",
    "square": "■",
    "triangle-up": "▲",
    "pentagon": "⬟",
    "star": "★",
    "triangle-down": "▼",
}


@dataclass(frozen=True)
class Style:
    """Which colour a method has, and which mark a model.

    Attributes:
        methods: in the order of the colours.
        models: in the order of the marks.
    """

    methods: tuple[str, ...]
    models: tuple[str, ...]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Style:
        """For all entries of a page."""
        methods = sorted({entry.method for entry in entries if not entry.is_dense})
        return cls(tuple(methods), tuple(sorted({entry.model for entry in entries})))

    def colour(self, method: str) -> str:
        """Of a method; grey for the dense model."""
        return GREY if method == DENSE else COLOURS[self.methods.index(method) % len(COLOURS)]

    def symbol(self, model: str) -> str:
        """The mark of a model."""
        return list(SYMBOLS)[self.models.index(model) % len(SYMBOLS)]

    def sign(self, model: str) -> str:
        """That mark as a character."""
        return SYMBOLS[self.symbol(model)]


def text(value: object) -> str:
    """Text as Plotly shows it: neither markup nor entities have a meaning in it."""
    return escape(str(value), quote=False)


def plain_figure(figure: go.Figure) -> dict[str, Any]:
    """The figure for JSON, without Plotly's own look."""
    made: dict[str, Any] = figure.to_plotly_json()
    made["layout"].pop("template", None)
    return made


def whose(entry: Entry) -> dict[str, Any]:
    """What the legend of a section shows and hides a trace by."""
    return {"method": entry.method, "model": entry.model}


def log_axis(values: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis for positive values that says each of its numbers in full: 0.5, 1, 2, 5, 10."""
    known = [value for value in values if value > 0]
    first, last = (math.floor(math.log10(end)) for end in (min(known, default=1), max(known, default=1)))
    ticks = [digit * 10.0**power for power in range(first - 1, last + 2) for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def quality_axis(metric: str, higher_is_better: bool) -> dict[str, Any]:
    """An axis on which better is up."""
    axis: dict[str, Any] = {"title": {"text": text(metric)}}
    return (
        axis if higher_is_better else {"title": {"text": f"{text(metric)} (lower is better)"}, "autorange": "reversed"}
    )

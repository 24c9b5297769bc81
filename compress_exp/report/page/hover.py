"""What a point says when one looks at it."""

from __future__ import annotations

import textwrap

from compress_exp.report.page.columns import form
from compress_exp.report.page.entries import Entry
from compress_exp.report.page.style import text

WIDTH = 76


def hover(entry: Entry, metric: str) -> str:
    """Numbers, the whole configuration and the command, as Plotly shows text."""
    seeds = f" · seeds {', '.join(entry.seeds)}" if len(entry.seeds) > 1 else f" · seed {entry.seeds[0]}"
    quality, speed = entry.quality, entry.speedup
    half = f" ± {quality.half:.3g}" if quality.half is not None else ""
    ends = "" if speed.low is None or speed.high is None else f" ({speed.low:.2f}–{speed.high:.2f})"
    lines = [
        f"<b>{text(entry.label)}</b>",
        text(f"{entry.model}{seeds}"),
        text(f"{metric} {'–' if quality.value is None else f'{quality.value:.4g}'}{half}, kept {form(entry.retained.value, 100, ' %', 1)}"),
        text(f"{form(entry.artifact_bytes, 1e-6)} MB, {form(entry.ratio)}× smaller"),
        text(f"{form(entry.p50)} ms, {form(speed.value)}×{ends} as fast"),
    ]
    lines += [f"⚠ {text(name)}" for name, _ in entry.badges]
    if not entry.is_dense:
        lines += ["", *_wrapped(entry.configuration), "", *_wrapped([entry.command])]
    return "<br>".join(lines)


def _wrapped(lines: list[str]) -> list[str]:
    return [text(part) for line in lines for part in textwrap.wrap(line, WIDTH, break_on_hyphens=False)]

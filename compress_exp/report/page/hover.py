"""The numbers that a point tells when one looks at it, before its configuration and its command."""

from __future__ import annotations

from compress_exp.report.analysis.entries import Entry
from compress_exp.report.page.columns import form


def hover(entry: Entry, metric: str) -> list[str]:
    """Lines of plain text."""
    seeds = f"seeds {', '.join(entry.seeds)}" if len(entry.seeds) > 1 else f"seed {entry.seeds[0]}"
    quality, speed = entry.quality, entry.speedup
    value = "–" if quality.value is None else f"{quality.value:.4g}"
    half = f" ± {quality.half:.2g}" if quality.half is not None else ""
    ends = "" if speed.low is None or speed.high is None else f" ({speed.low:.2f}–{speed.high:.2f})"
    return [
        f"{entry.model} · {seeds}",
        f"{metric} {value}{half}, {form(entry.retained, 100, ' %', 1)} kept",
        f"{form(entry.artifact_bytes, 1e-6)} MB, {form(entry.ratio, unit='×')} smaller",
        f"{form(entry.p50)} ms, {form(speed.value, unit='×')}{ends} as fast",
    ]

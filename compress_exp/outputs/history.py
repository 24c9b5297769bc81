"""The curves of stages, as their artifacts keep them."""

from __future__ import annotations

import csv
import json
from pathlib import Path


def curves(paths: list[Path]) -> list[dict[str, float | str]]:
    """The curves of the whole chain, on one step axis, whoever trained it."""
    rows: list[dict[str, float | str]] = []
    offset = 0.0
    for index, path in enumerate(paths):
        with (path / "history.csv").open(newline="") as stream:
            own = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]
        for row in own:
            rows.append({**row, "step": row["step"] + offset, "stage": float(index)})
        offset += json.loads((path / "build.json").read_text())["steps"]
    return rows


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """The curves as CSV: one row per noted step, no times."""
    columns = list(dict.fromkeys(name for row in history for name in row)) or ["step"]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows({name: f"{value:.9g}" for name, value in row.items()} for row in history)

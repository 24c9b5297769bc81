"""Training curves: the histories of the artifacts that a run went through, whoever trained them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from compress_exp.outputs.records import Record
from compress_exp.report.page.style import text

POINTS = 60
NOT_LOSSES = ("sparsity", "quantization_error", "agreement", "learning_rate", "accuracy", "density", "bits")


class Histories:
    """The curves under `outputs/artifacts`, each read once and thinned to what a screen shows.

    Args:
        artifacts: the directory.
    """

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts
        self.found: dict[str, dict[str, Any] | None] = {}

    def chain(self, record: Record) -> list[str]:
        """The artifacts of a run in order that have a history, the dense model's first."""
        origin, stages = record.get("origin"), record.get("stages")
        keys = [origin.get("baseline")] if isinstance(origin, dict) else []
        keys += [row.get("artifact") for row in stages if isinstance(row, dict)] if isinstance(stages, list) else []
        for key in keys:
            if str(key) not in self.found:
                self.found[str(key)] = _read(self.artifacts / str(key)) if _is_name(key) else None
        return [str(key) for key in keys if self.found[str(key)] is not None]

    def known(self) -> dict[str, Any]:
        """Steps and curves by artifact."""
        return {key: value for key, value in self.found.items() if value is not None}


def _read(directory: Path) -> dict[str, Any] | None:
    try:
        lines = (directory / "history.csv").read_text(encoding="utf-8").splitlines()
        steps = json.loads((directory / "build.json").read_text())["steps"]
        return {"steps": float(steps)} | curves(lines) if len(lines) > 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def curves(lines: list[str]) -> dict[str, Any]:
    """The steps, and each other column with its name, whether it is a loss, and its values; the last row is kept.

    Rows are thinned before they are parsed, since a history may be long.
    """
    stride = max(-(-(len(lines) - 1) // POINTS), 1)
    rows = list(csv.DictReader([lines[0], *lines[:0:-1][::stride][::-1]]))
    made = []
    for name in rows[0]:
        values = [float(f"{float(row[name]):.4g}") if row.get(name) else None for row in rows]
        if name == "step" or not any(value is not None for value in values):
            continue
        made.append({"name": text(name), "kind": "state" if name.startswith(NOT_LOSSES) else "loss", "y": values})
    return {"x": [float(row["step"]) for row in rows], "curves": made}


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and bool(key) and Path(key).name == key

"""Reading records: whatever lies in `outputs/runs`, broken files named and left out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read(outputs: Path) -> tuple[list[Record], list[str]]:
    """The records of all runs, and one sentence for each file that is no record.

    Of two records with one id (a copied directory) the first counts.
    """
    found: dict[str, Record] = {}
    problems = []
    for path in _files(outputs / "runs"):
        try:
            record = json.loads(path.read_text())
            name = str(record["run"]["id"])
            complete = all(isinstance(record[block], dict) for block in ("quality", "size", "latency"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path}: left out, it is not a readable record ({_reason(error)})")
            continue
        if not complete:
            problems.append(f"{path}: left out, quality, size or latency is missing in it")
            continue
        found.setdefault(name, record)
    return list(found.values()), problems


def _files(runs: Path) -> list[Path]:
    directories = sorted(runs.iterdir()) if runs.is_dir() else []
    return [path for directory in directories if (path := directory / "record.json").exists()]


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError | TypeError):
        return "it has no run id"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def number(node: Any, *path: str | int) -> float | None:
    """The finite number at a path of a record, None if there is none."""
    for part in path:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return None
    if isinstance(node, bool) or not isinstance(node, int | float) or not math.isfinite(node):
        return None
    return float(node)

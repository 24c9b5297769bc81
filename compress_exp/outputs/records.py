"""Reading records: whatever lies in `outputs/runs`, broken files named and left out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress_exp.outputs.files import write_json
from compress_exp.outputs.lease import leased
from compress_exp.outputs.score import weighted_score

log = logging.getLogger("compress_exp")
REQUIRED = ("schema", "run", "quality", "size", "latency", "memory", "energy", "score", "stages", "cost", "origin")

Record = dict[str, Any]


def read(outputs: Path) -> tuple[list[Record], list[str]]:
    """The records of all runs, and one sentence for each file that is no record."""
    found, problems = located(outputs)
    return [record for _, record in found], problems


def located(outputs: Path) -> tuple[list[tuple[Path, Record]], list[str]]:
    """The records of all runs with their directories, and one sentence for each file that is no record.

    Of two records with one id (a copied directory) the first counts.
    """
    found: dict[str, tuple[Path, Record]] = {}
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
        found.setdefault(name, (path.parent, record))
    return list(found.values()), problems


def _files(runs: Path) -> list[Path]:
    directories = sorted(runs.iterdir()) if runs.is_dir() else []
    return [path for directory in directories if (path := directory / "record.json").exists()]


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError | TypeError):
        return "it has no run id"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_record(directory: Path) -> Record | None:
    """The record of a run's directory; None if there is none or it is damaged, which is said."""
    path = directory / "record.json"
    if not path.exists():
        return None
    try:
        record: Record = json.loads(path.read_text())
        missing = [name for name in REQUIRED if name not in record]
    except (OSError, ValueError, TypeError):
        missing = ["everything"]
    if missing:
        log.warning("%s is damaged (%s missing); measuring again", path, missing[0])
        return None
    return record


def finished(directory: Path, every_stage: bool, weights: Mapping[str, float]) -> Record | None:
    """The record if nothing is left to do for it, with the score of the present weights.

    Args:
        directory: of the run.
        every_stage: whether the quality of every stage is wanted.
        weights: of the score.
    """
    record = read_record(directory)
    if record is None or (every_stage and any(row["quality"] is None for row in record["stages"])):
        return None
    record["score"] = weighted_score(record, weights)
    return record


def keep_score(directory: Path, weights: Mapping[str, float], seconds: float) -> None:
    """Let a finished record hold the score of the present weights.

    Args:
        directory: of the run.
        weights: of the score.
        seconds: of the run's lease.
    """
    record = read_record(directory)
    if record is None or record["score"] == weighted_score(record, weights):
        return
    with leased(directory, seconds, "score"):
        if (record := read_record(directory)) is not None:
            write_json(directory / "record.json", record | {"score": weighted_score(record, weights)})


def runtime(record: Record) -> tuple[str | None, str | None, str | None]:
    """What stands for the runtime among the conditions of a record, and the runtimes of the model and of the dense one.

    Under `auto` each model is shown in the runtime that it is fastest in, and runs in different ones are compared.
    """
    found = record["run"].get("runtime")
    told = found if isinstance(found, Mapping) else {}
    name = told.get("name")
    return ("auto" if told.get("asked") == "auto" else name), name, told.get("baseline_name", name)


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

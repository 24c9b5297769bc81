"""How good it is to answer the most frequent class: from the labels kept with the evaluations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress_exp.outputs.records import Record


class Majority:
    """The labels under `outputs/evaluations`, each set of rows read once.

    Args:
        evaluations: the directory.
    """

    def __init__(self, evaluations: Path) -> None:
        self.places: dict[str, Path] = {}
        self.known: dict[str, float | None] = {}
        for path in sorted(evaluations.glob("*/recipe.json")):
            try:
                task = json.loads(path.read_text())["task"]
                self.places.setdefault(_name(task), path.parent)
            except (OSError, ValueError, KeyError, TypeError):
                continue

    def share(self, record: Record) -> float | None:
        """The accuracy of the most frequent class on the record's rows; None where that is unknown or no question."""
        settings = record["quality"].get("settings")
        if not isinstance(settings, Mapping) or not settings.get("classes"):
            return None
        name = _name(settings)
        if name not in self.known:
            self.known[name] = _majority(self.places[name]) if name in self.places else None
        return self.known[name]


def _majority(directory: Path) -> float | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / "predictions.safetensors", framework="np") as file:
            labels = file.get_tensor("labels").tolist()
    except (OSError, SafetensorError):
        return None
    return max(Counter(labels).values()) / len(labels) if labels else None


def _name(task: Mapping[str, Any]) -> str:
    return json.dumps([task.get("rows"), task.get("part"), task.get("subset"), task.get("classes")], default=str)

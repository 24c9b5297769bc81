"""Tracking: views of a finished run elsewhere. The record is the truth, so nothing here can fail a run.

What was shown of a record, and where, is noted in `tracked.json` beside it, so that a run whose process was killed
before that is shown later, and one that is shown again stays one run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compress_exp.config.secrecy import clean as clean
from compress_exp.outputs.files import write_json

log = logging.getLogger("compress_exp")

Json = Mapping[str, Any]
MARKER = "tracked.json"


@dataclass(frozen=True, kw_only=True)
class Tracking(ABC):
    """Where a finished run is shown beside its record."""

    def log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> None:
        """Show a run; a failure is one warning line. The caller holds the run's lease.

        Args:
            record: the run's record.
            curves: one row per logged training step; their "step" never falls.
            config: the resolved configuration.
            directory: the run's directory, which holds `record.json`.
        """
        try:
            fingerprint = _fingerprint(directory)
            shown = self._log(clean(record), [clean(row) for row in curves], clean(config), directory)
            if shown is not None:
                self._note(directory, shown | {"record": fingerprint})
        except Exception as error:
            text = " ".join(str(error).split())
            log.warning("tracking: %s: %s; the record is complete", type(error).__name__, text)

    def done(self, directory: Path) -> bool:
        """Whether this tracker shows the record that is in a run's directory now; reads two small files."""
        shown = self._shown(directory).get("record")
        return shown is not None and shown == _fingerprint(directory)

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this tracker's entry in `tracked.json` from those of others."""

    @abstractmethod
    def _log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> dict[str, Any] | None:
        """Show a run; what the note says about it, None if it was not to be shown."""

    def _shown(self, directory: Path) -> dict[str, Any]:
        """What is noted about this tracker; nothing if it has shown nothing yet."""
        own = self.identity.items()
        return next((entry for entry in _entries(directory) if own <= entry.items()), {})

    def _note(self, directory: Path, shown: Json) -> None:
        others = [entry for entry in _entries(directory) if not self.identity.items() <= entry.items()]
        entry = {**self.identity, **shown, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        write_json(directory / MARKER, {"schema": 1, "trackers": [*others, entry]})


@dataclass(frozen=True, kw_only=True)
class NoTracking(Tracking):
    """The record alone."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its name."""
        return {"tracker": "none"}

    def done(self, directory: Path) -> bool:
        """Always: there is nothing to do."""
        return True

    def _log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> None:
        pass


def _entries(directory: Path) -> list[dict[str, Any]]:
    """What all trackers noted; a damaged note counts as none."""
    try:
        entries = json.loads((directory / MARKER).read_text())["trackers"]
        return [entry for entry in entries if isinstance(entry, dict)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _fingerprint(directory: Path) -> str | None:
    """What tells one record from another; None where there is none."""
    try:
        return hashlib.sha256((directory / "record.json").read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def summary(record: Json) -> dict[str, Any]:
    """The record by path; the headline row is directly under `latency/`, the primary metric at `quality/primary`."""
    rows = record["latency"]["rows"]
    latency = {name: value for name, value in record["latency"].items() if name != "rows"}
    flat = flatten(dict(record) | {"latency": latency | (dict(rows[0]) if rows else {})})
    return flat | {"quality/primary": record["quality"]["primary"]["value"]}


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one level, the parts of a path joined by `/`; a list of strings is one string."""
    if isinstance(node, list) and node and all(isinstance(item, str) for item in node):
        return {path: ",".join(node)}
    if isinstance(node, Mapping | list):
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        flat: dict[str, Any] = {}
        for name, value in items:
            flat |= flatten(value, f"{path}/{name}" if path else str(name))
        return flat
    return {path: node}

"""Results in CSV files beside the records."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress_exp.tracking.base import Json, Tracking


@dataclass(frozen=True, kw_only=True)
class CsvTracking(Tracking):
    """The run's curves as `history.csv` beside its record."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its name."""
        return {"tracker": "csv"}

    def _log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> dict[str, Any]:
        columns = list(dict.fromkeys(name for row in curves for name in row))
        temporary = directory / ".history.csv.tmp"
        with temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(curves)
        os.replace(temporary, directory / "history.csv")
        return {"rows": len(curves)}

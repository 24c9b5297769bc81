"""What a search optimises: paths of a record, with their directions.

Nothing here imports torch or optuna: objectives are checked with the rest of the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from compress_exp.config.checks import FieldError, check_choice, nearest
from compress_exp.outputs.records import number

MINIMIZE, MAXIMIZE = DIRECTIONS = ("minimize", "maximize")
TASKS_OWN = "quality/primary"
LOWER = (
    *("size/artifact_bytes", "size/deployed_bytes", "size/parameters", "size/nonzero_parameters"),
    *("size/bits_per_weight", "latency/p50_ms", "latency/p90_ms", "latency/p99_ms", "latency/token_ms"),
    *("memory/peak_rss_bytes", "memory/device_bytes", "energy/joules_per_1000", "quality/agreement/kl"),
)
HIGHER = (
    *("quality/retained", "quality/agreement/same", "size/compression_ratio", "size/sparsity"),
    *("latency/speedup", "latency/speedup_over_eager", "latency/throughput", "score"),
)
BLOCKS = ("quality", "size", "latency", "memory", "energy", "score", "cost")
SHORT = {"quality/primary": ("quality", "primary", "value"), "score": ("score", "WS")}
UNITS = {"_bytes": (1e-6, " MB"), "_ms": (1.0, " ms")}


@dataclass(frozen=True)
class Objective:
    """One number of the record.

    Attributes:
        path: its place, the parts joined by `/`.
        direction: "minimize" or "maximize"; None is that of the task's primary metric.
    """

    path: str
    direction: str | None

    def value(self, record: Mapping[str, Any]) -> float | None:
        """The number in a record; None if it is not there or not finite."""
        parts: list[str | int] = [int(part) if part.isdigit() else part for part in self.path.split("/")]
        return number(record, *SHORT.get(self.path, tuple(parts)))

    def show(self, value: float) -> str:
        """The number as a person reads it."""
        factor, unit = next((form for end, form in UNITS.items() if self.path.endswith(end)), (1.0, ""))
        return f"{value * factor:.4g}{unit}"


def parse(node: Any) -> list[Objective]:
    """The objectives of the root key `objectives`: paths, or mappings with `path` and `direction`.

    Raises:
        FieldError: a path or a direction that there is not.
    """
    given = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    if not isinstance(given, list) or not given:
        raise FieldError("objectives", f"{given!r} is not allowed, a list of record paths is, such as [{TASKS_OWN}]")
    objectives = [_objective(item) for item in given]
    for index, objective in enumerate(objectives):
        if objective.path in [other.path for other in objectives[:index]]:
            raise FieldError("objectives", f"{objective.path} is there twice")
    return objectives


def _objective(item: Any) -> Objective:
    form = "{path: <record path>, direction: minimize or maximize}"
    path, direction = (item.get("path"), item.get("direction")) if isinstance(item, dict) else (item, None)
    if not isinstance(path, str) or (isinstance(item, dict) and set(item) - {"path", "direction"}):
        raise FieldError("objectives", f"{item!r} is not allowed; a record path or {form} is")
    known = path == TASKS_OWN or path in LOWER + HIGHER
    options = nearest(path, (TASKS_OWN, *HIGHER, *LOWER))
    if not known and (path.split("/")[0] not in BLOCKS or "/" not in path.strip("/")):
        raise FieldError("objectives", f"{path!r} is no path of a number in a record; {options}")
    if not known and direction is None:
        raise FieldError("objectives", f"the direction of {path!r} is not known, write {form}; {options}")
    if direction is not None:
        check_choice("objectives.direction", direction, DIRECTIONS)
    elif path != TASKS_OWN:
        direction = MINIMIZE if path in LOWER else MAXIMIZE
    return Objective(path, direction)

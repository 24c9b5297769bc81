"""TensorBoard: the curves of a run and the numbers of its record, as event files under `outputs/tensorboard`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compress_exp.config.checks import UserError
from compress_exp.outputs.files import replace_directory
from compress_exp.outputs.records import number
from compress_exp.tracking.base import Json, Tracking, summary


@dataclass(frozen=True, kw_only=True)
class TensorboardTracking(Tracking):
    """One directory per run, replaced as a whole when the run is shown again.

    Raises:
        UserError: the package tensorboard is not installed.
    """

    def __post_init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise UserError(
                "tracking=tensorboard needs the package tensorboard: pip install 'compress_exp[tensorboard]', "
                "or choose tracking=csv"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """Its name."""
        return {"tracker": "tensorboard"}

    def _log(self, record: Json, curves: Sequence[Json], config: Json, directory: Path) -> dict[str, Any]:
        from torch.utils.tensorboard import SummaryWriter

        place = directory.resolve().parents[1] / "tensorboard" / directory.name
        run = record["run"]
        aside = place.with_name(f".partial-{run['id']}")
        shutil.rmtree(aside, ignore_errors=True)
        named = {name: str(run[name]) for name in ("model", "task", "hardware")} | {"method": "+".join(run["method"])}
        values = {name: found for name, value in summary(record).items() if (found := number(value)) is not None}
        values.pop("run/seed", None)
        with SummaryWriter(str(aside)) as writer:
            for row in curves:
                for name, value in row.items():
                    if name != "step":
                        writer.add_scalar(name, value, int(row["step"]))
            # "." is the run itself: otherwise each call becomes a run of its own
            writer.add_hparams(named | {"seed": run["seed"]}, values, run_name=".")
        replace_directory(aside, place)
        return {"rows": len(curves)}

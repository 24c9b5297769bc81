"""Finished runs as a data frame."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from compress_exp.config.checks import UserError
from compress_exp.config.secrecy import hide, safe
from compress_exp.outputs.records import read
from compress_exp.report.table import rows

log = logging.getLogger("compress_exp")


def records(outputs: str | Path) -> pd.DataFrame:
    """See `compress_exp.records`."""
    found, problems = read(Path(outputs).expanduser())
    for problem in problems:
        log.warning("%s", hide(problem))
    if not found:
        raise UserError(f"outputs: there are no finished runs in {str(outputs)!r}")
    return pd.DataFrame(rows([safe(record) for record in found]))

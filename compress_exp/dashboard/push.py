"""Sending finished runs that W&B does not have yet, from their records alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from compress_exp.config.checks import UserError
from compress_exp.outputs.history import curves
from compress_exp.outputs.lease import holder, leased
from compress_exp.outputs.records import located
from compress_exp.outputs.store import Store
from compress_exp.tracking.wandb import WandbTracking, address
from compress_exp.tracking.wandb_account import ANSWER_SECONDS, answers, check_server

log = logging.getLogger("compress_exp")
KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Pushed:
    """How many runs were sent, how many could not be (a sentence was logged for each), how many were there."""

    sent: int
    failed: int
    there: int


def push(tracking: WandbTracking, config: DictConfig) -> Pushed:
    """Send what is missing, each run with its curves if all artifacts of its chain are still there.

    Raises:
        UserError: there is no key, or the server does not answer (any more).
    """
    outputs, online = Path(config.outputs), replace(tracking, mode="online")
    found, problems = located(outputs)
    for problem in problems:
        log.warning(problem)
    missing = [(directory, record) for directory, record in found if not online.sent(directory)]
    if missing:
        check_server(address(outputs))
    failed = 0
    for index, (directory, record) in enumerate(missing):
        if (other := holder(directory)) is not None and other.alive:
            log.warning("%s: left out, %s works on it", directory.name, other)
            failed += 1
            continue
        with leased(directory, config.lease_seconds, directory.name):
            rows = curves(chain(record, Store(outputs / "artifacts")))
            online.log(record, rows, {"overrides": record["run"].get("overrides")}, directory)
        if not online.sent(directory):
            failed += 1
            if not answers(address(outputs), ANSWER_SECONDS):
                raise UserError(f"the server is lost after {index} of {len(missing)} runs; the same command goes on")
    return Pushed(len(missing) - failed, failed, len(found) - len(missing))


def chain(record: Mapping[str, Any], store: Store) -> list[Path]:
    """The artifacts that a record names, baseline first; nothing where one is gone."""
    origin, stages = record.get("origin") or {}, record.get("stages") or []
    keys = [origin.get("baseline"), *(stage.get("artifact") for stage in stages)]
    paths = [store.find(key) for key in keys if isinstance(key, str) and KEY.fullmatch(key)]
    there = [path for path in paths if path is not None]
    return there if len(there) == len(keys) else []

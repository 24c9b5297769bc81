"""What a run says of itself until its record is there: `status.json`, for whoever looks from outside."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compress_exp.config.refusal import sentence
from compress_exp.outputs.files import write_json
from compress_exp.outputs.lease import Lease, job_id

STATUS = "status.json"
EVERY_SECONDS = 5.0

Beat = Callable[[int, int], None]


def unheard(step: int, steps: int) -> None:
    """A beat that nobody listens to."""


class Progress:
    """The status of one run, written as it moves, at most every five seconds.

    Args:
        directory: of the run.
        run: its id.
        chain: keys of the artifacts that it needs.
        lease: the run's.
    """

    def __init__(self, directory: Path, run: str, chain: Sequence[str], lease: Lease) -> None:
        self.path, self.lease = directory / STATUS, lease
        self.content: dict[str, Any] = {
            "run": run,
            "name": directory.name,
            "chain": list(chain),
            "state": "running",
            "reason": None,
            "host": platform.node(),
            "pid": os.getpid(),
            "job": job_id(),
            "stage": None,
            "step": 0,
            "steps": 0,
            "started": _now(),
        }
        self.last = 0.0

    def stage(self, label: str) -> None:
        """Say what begins.

        Raises:
            LeaseLost: another process took over the run.
        """
        self.lease.check()
        self.content |= {"stage": label, "step": 0, "steps": 0}
        self._write()

    def beat(self, check: Callable[[], None]) -> Beat:
        """What training calls after every step with (step, steps).

        Args:
            check: raises `LeaseLost` where what is built is another's by now.
        """

        def beat(step: int, steps: int) -> None:
            if time.monotonic() - self.last >= EVERY_SECONDS:
                self.lease.check()
                check()
                self.content |= {"step": step, "steps": steps}
                self._write()

        return beat

    def failed(self, reason: str) -> None:
        """Keep why the run ended."""
        self.content |= {"state": "failed", "reason": reason}
        self._write()

    def _write(self) -> None:
        self.last = time.monotonic()
        write_json(self.path, self.content | {"updated": _now()})


@contextmanager
def reported(directory: Path, run: str, chain: Sequence[str], lease: Lease) -> Iterator[Progress]:
    """Keep the status of a run while it works; nothing is left of it once the run has done what it was asked.

    What stops it from outside (a signal, a power cut) leaves the status as it was: whoever finds it without a living
    holder of the run's lease knows that the run was interrupted. Nothing is said once another process took over.

    Raises:
        LeaseLost: it did.
    """
    directory.mkdir(parents=True, exist_ok=True)
    progress = Progress(directory, run, chain, lease)
    try:
        yield progress
    except Exception as error:
        lease.check()
        progress.failed(sentence(error))
        raise
    progress.path.unlink(missing_ok=True)


def failure(directory: Path, since: float) -> str | None:
    """Why the run of a directory failed, if it has said so after a time."""
    path = directory / STATUS
    try:
        content = json.loads(path.read_text())
        return str(content["reason"]) if content["state"] == "failed" and path.stat().st_mtime >= since else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

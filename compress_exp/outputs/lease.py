"""Leases: who works on a directory, on any host that shares the file system, until the holder is done or gone.

A holder that stops refreshing its claim (killed, frozen, cut off) is superseded after the lease's duration, at once
where it died on the same host. A lease saves work; that nothing is ever half-written is the doing of renames.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from compress_exp.config.checks import UserError

log = logging.getLogger("compress_exp")

SECONDS = 60.0
AT_ONCE = 0.5
LOOKS = 3
LOOK_SECONDS = 5.0


class LeaseLost(Exception):
    """Another process took over what this one was building; its own copy is to be discarded."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        host: its machine.
        pid: its process there.
        alive: False where it died on this host, or gave no sign of life for twice its lease.
    """

    host: str
    pid: int
    alive: bool

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """A claim that is held, named by its token."""

    def __init__(self, marker: SoftFileLease) -> None:
        self._marker = marker
        self.token = str(marker.token)

    @property
    def lost(self) -> bool:
        """Whether the claim is another's by now, or nobody's."""
        for _ in range(LOOKS):  # a contender that looks whether the holder lives moves the marker aside for a moment
            if (owner := self._marker.owner) is not None:
                return owner.token != self.token
            time.sleep(AT_ONCE / LOOKS)
        return True

    def check(self) -> None:
        """Require that the claim is still held.

        Raises:
            LeaseLost: it is not.
        """
        if self.lost:
            raise LeaseLost(f"{self._marker.lock_file}: another process took over")


def lease_file(path: Path) -> Path:
    """The marker that belongs to a path."""
    return path.with_name(f".{path.name}.lease")


@contextmanager
def leased(path: Path, seconds: float, what: str) -> Iterator[Lease]:
    """Hold the lease of a path; others wait, and say for whom.

    Args:
        path: what is worked on; the marker lies beside it.
        seconds: without a sign of life after which a holder is superseded; the same for all contenders.
        what: how the log calls it.

    Raises:
        UserError: somebody holds it under another duration.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    marker = _acquired(path, seconds, what)
    try:
        yield Lease(marker)
    finally:
        marker.release()


def _acquired(path: Path, seconds: float, what: str) -> SoftFileLease:
    marker = SoftFileLease(lease_file(path), lease_duration=seconds, thread_local=False)
    told, empty = False, None
    while True:
        try:
            marker.acquire(
                timeout=min(seconds, LOOK_SECONDS) if told else AT_ONCE, poll_interval=min(1.0, seconds / 10)
            )
            return marker
        except Timeout:
            if not told:
                told = True
                log.info("%-24s waiting for %s (%s)", what, holder(path) or "another process", path)
            empty = _spoil_if_empty(lease_file(path), empty, seconds)
        except LeaseSettingsMismatch as error:
            other, owner = holder(path), marker.owner
            if other is None or owner is None:
                continue
            if other.alive:
                raise UserError(
                    f"lease_seconds: {seconds:g} differs from what {other} uses for {path}; use the same value"
                ) from error
            marker = SoftFileLease(lease_file(path), lease_duration=owner.lease_duration or SECONDS, thread_local=False)


def _spoil_if_empty(file: Path, seen: tuple[int, float] | None, seconds: float) -> tuple[int, float] | None:
    """Make a marker that stays empty (its holder died between two system calls) one that filelock takes for broken.

    Returns:
        The inode of an empty marker, and when it was first seen.
    """
    try:
        status = file.stat()
    except OSError:
        return None
    if status.st_size:
        return None
    if seen is None or seen[0] != status.st_ino:
        return status.st_ino, time.monotonic()
    if time.monotonic() - seen[1] >= seconds:
        with file.open("ab") as stream:
            stream.write(b"?")
        return None
    return seen


def spoil_if_abandoned(file: Path) -> None:
    """Let a marker that has been empty for minutes be taken for broken."""
    try:
        if file.stat().st_size == 0 and time.time() - file.stat().st_mtime > 2 * SECONDS:
            file.write_bytes(b"?")
    except OSError:
        pass


def holder(path: Path) -> Holder | None:
    """Who holds the lease of a path, None if nobody does."""
    marker = lease_file(path)
    owner = SoftFileLease(marker).owner
    if owner is None:
        return None
    try:
        silent = time.time() - marker.stat().st_mtime
    except FileNotFoundError:
        return None
    host = owner.hostname.partition("?")[0]  # filelock adds the process namespace of a container
    dead = host == platform.node() and not psutil.pid_exists(owner.pid)
    return Holder(host, owner.pid, not dead and silent < 2 * (owner.lease_duration or SECONDS))


def job_id() -> str | None:
    """The SLURM job that this process belongs to, as `squeue` names it."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")

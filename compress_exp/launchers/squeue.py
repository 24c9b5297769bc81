"""What becomes of SLURM jobs, on clusters with and without accounting."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterable

log = logging.getLogger("compress_exp")

GONE = "GONE"
ENDING = "COMPLETING"  # shown while a job's processes are still being ended, whatever ended it
# What a job does not come back from, unless SLURM requeues it.
ENDED = {
    *(GONE, "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
}
ANSWER_SECONDS = 60.0


class Queue:
    """The states of some jobs, read from `squeue`, which every cluster has; `sacct` adds how forgotten ones ended."""

    def __init__(self) -> None:
        self.silent = False
        self.accounting = True
        self.held: set[str] = set()

    def states(self, jobs: Iterable[str]) -> dict[str, str] | None:
        """The state of each job, GONE where the queue has forgotten it; None while SLURM does not answer."""
        wanted = list(jobs)
        arrays = ",".join(dict.fromkeys(job.split("_")[0] for job in wanted))
        done = _command("squeue", "--noheader", "--array", "--states=all", f"--jobs={arrays}", "--format=%i|%T|%r")
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            if not self.silent:
                log.warning("squeue does not answer (%s); waiting for it", _last(done.stderr))
            self.silent = True
            return None
        self.silent = False
        rows = [line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
        for job, _, reason in rows:
            if "held" in reason.lower() and job in wanted and job not in self.held:
                self.held.add(job)
                log.warning("SLURM job %s is held (%s); `scontrol release %s` lets it go on", job, reason, job)
        found = {job: state for job, state, _ in rows}
        return {job: found.get(job, GONE) for job in wanted}

    def ending(self, job: str) -> str | None:
        """How a job ended that the queue has forgotten, None where the cluster keeps no accounting."""
        if not self.accounting:
            return None
        done = _command("sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={job}")
        if done.returncode != 0:
            self.accounting = False
            log.info("this cluster keeps no accounting (%s): how jobs end is read from squeue", _last(done.stderr))
            return None
        lines = done.stdout.split("\n")
        return lines[0].split()[0] if lines[0].strip() else None


def _command(*line: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(line, 1, "", str(error))


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]

"""The cores that this process may use, and its end with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path


def available_cores() -> int:
    """The cores that this process may use: its affinity, a container's quota, a SLURM job's share."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        limits.append(max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or no limit: "max 100000"
        pass
    if (share := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        limits.append(int(share))
    return min(limits)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent is gone, so that none goes on measuring beside the next one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)

"""Peak memory of one model in a process of its own, started for nothing else."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import Any

from compress_exp.runtimes.base import random_ids, runtime

CALLS = 3


def peak_rss() -> int:
    """The largest resident size of this process so far, in bytes.

    Not `ru_maxrss` where Linux has better: it survives exec, so a child would start with its parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak(job: dict[str, Any]) -> dict[str, int | None]:
    """Load one model, run the headline shape a few times, read the peak.

    Args:
        job: directory, runtime, device, precision, threads, vocabulary, special, batch, length, new_tokens.
    """
    ids = random_ids(job["vocabulary"], job["special"], job["batch"], job["length"])
    model = runtime(job["runtime"]).open(Path(job["directory"]), None, job["precision"], job["threads"], job["device"])
    call = model.generate_call(ids, job["new_tokens"]) if job["new_tokens"] else model.forward_call(ids)
    for _ in range(CALLS):
        call()
    device = None
    if job["device"] == "cuda":
        import torch

        device = torch.cuda.max_memory_allocated()
    return {"peak_rss_bytes": peak_rss(), "device_bytes": device}

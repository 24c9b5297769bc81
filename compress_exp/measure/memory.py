"""Peak memory of one model in a process of its own, started for nothing else."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import Any

from compress_exp.measure.runtimes import EagerPredictor, OpenVINOPredictor, random_ids

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
    if job["runtime"] == "openvino":
        predictor = OpenVINOPredictor(Path(job["directory"]), None, job["precision"], job["threads"])
        call = predictor.forward_call(ids)
    else:
        import torch

        from compress_exp.export.artifact import load

        torch.set_num_threads(job["threads"])
        eager = EagerPredictor(load(Path(job["directory"])), job["device"])
        call = eager.generate_call(ids, job["new_tokens"]) if job["new_tokens"] else eager.forward_call(ids)
    for _ in range(CALLS):
        call()
    device = torch.cuda.max_memory_allocated() if job["device"] == "cuda" else None
    return {"peak_rss_bytes": peak_rss(), "device_bytes": device}

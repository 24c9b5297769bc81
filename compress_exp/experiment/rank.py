"""A further process of a training on several devices. Started by `compress_exp.parallel.team` only."""

from __future__ import annotations

import json
import logging
import signal
import sys
import traceback
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

from compress_exp.parallel.cores import die_with_parent
from compress_exp.training.preemption import SIGNALS


def work(job: dict[str, Any]) -> None:
    """Train the baseline or a stage beside rank 0, from the same plan.

    Args:
        job: `config` (resolved), `stage` (its index; null for the baseline), `parent_artifact`, `baseline`,
            `directory`, `answers` (null where the teacher runs), and the team's own `rank`, `devices`, `port` and
            `leader` (a process id).
    """
    from omegaconf import OmegaConf
    from torch.distributed import TCPStore, destroy_process_group  # type: ignore[attr-defined]

    from compress_exp.config.refusal import sentence
    from compress_exp.experiment.build import train_baseline, train_stage
    from compress_exp.experiment.plan import plan
    from compress_exp.parallel.team import LOCALHOST, TIMEOUT, join

    store = TCPStore(LOCALHOST, job["port"], job["devices"], False, TIMEOUT, wait_for_workers=False)
    try:
        planned = plan(OmegaConf.create(job["config"]))
        store.set(f"ready/{job['rank']}", "1")
        join(store, job["rank"], job["devices"])
        directory = Path(job["directory"])
        if job["stage"] is None:
            train_baseline(planned, directory)
        else:
            parent, baseline = Path(job["parent_artifact"]), Path(job["baseline"])
            answers = None if job["answers"] is None else Path(job["answers"])
            train_stage(planned, job["stage"], parent, baseline, directory, answers=answers)
        store.wait(["done"], timedelta(days=1))
        destroy_process_group()
    except Exception as error:
        told = {"how": f"failed ({sentence(error)})", "trace": traceback.format_exc()}
        store.set(f"error/{job['rank']}", json.dumps(told))
        sys.exit(1)


def main() -> None:
    """Do the job that comes on the standard input; rank 0 says what went wrong."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    job = json.load(sys.stdin)
    die_with_parent(job["leader"])
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    work(job)


if __name__ == "__main__":
    main()

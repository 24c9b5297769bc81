"""The second of two processes that do the first stage of several plans in one group, one after the other.

Usage: python -m tests.parallel.ranks_child PORT DATA BASELINE DIRECTORY METHOD [METHOD …]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore, destroy_process_group

from compress_exp.experiment.build import train_stage
from compress_exp.parallel.cores import die_with_parent
from compress_exp.parallel.team import LOCALHOST, TIMEOUT, join
from tests.experiments import planned

SETTINGS = [f"+model.architecture.{name}_pdrop=0.0" for name in ("resid", "embd", "attn")]
SETTINGS += ["model.architecture.n_head=4", "train.max_steps=1", "train.learning_rate=0"]


def cut(method: str, data: Path, baseline: Path, directory: Path) -> Any:
    """What a method makes of a language model in one step that moves nothing."""
    directory = directory / method
    directory.mkdir(parents=True, exist_ok=True)
    return train_stage(planned("gpt2", data, f"method={method}", *SETTINGS), 0, baseline, baseline, directory)


def main(port: str, data: str, baseline: str, directory: str, *methods: str) -> None:
    die_with_parent(os.getppid())
    store = TCPStore(LOCALHOST, int(port), 2, False, TIMEOUT, wait_for_workers=False)
    store.set("ready", "1")
    join(store, 1, 2)
    for method in methods:
        cut(method, Path(data), Path(baseline), Path(directory))
    destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

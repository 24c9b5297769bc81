"""A small Hydra application for launchers: `python -m tests.cluster.app DIRECTORY LAUNCHER-OVERRIDE... -- JOB...`.

A job is a list of overrides joined by blanks. What the launcher returns for each goes to DIRECTORY/returns.json.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from compress_exp.config.checks import UserError
from compress_exp.config.compose import Loader
from compress_exp.config.schema import CONF

CONFIG = """
defaults:
  - override hydra/job_logging: plain
  - override hydra/hydra_logging: plain
  - _self_
number: 0
action: finish
outputs: {outputs}
train: {{threads: null, devices: 1}}
hydra:
  output_subdir: null
  sweep: {{dir: "${{outputs}}", subdir: "."}}
  job: {{chdir: false}}
"""


class Unlucky(Exception):
    """One that cannot be pickled."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}\n{detail}")


def task(config: DictConfig) -> dict[str, Any]:
    """Note every stay on a node; finish, fail, or wait for the file `go`, also as long as a child of its own lives."""
    directory = Path(config.outputs)
    stay = {name: os.environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURMD_NODENAME")}
    stay |= {"pid": os.getpid(), "place": os.getcwd(), "threads": config.train.threads}
    with (directory / f"{config.number}.jsonl").open("a") as stream:
        stream.write(json.dumps(stay) + "\n")
    if config.action == "refuse":
        raise UserError("task: this one is not allowed")
    if config.action == "fail":
        raise Unlucky("out of luck", "second line")
    child = subprocess.Popen(["sleep", "300"]) if config.action == "child" else None
    while child is not None and not (directory / "go").exists():
        if child.poll() is not None:
            raise Unlucky("the child died", "of a signal")
        time.sleep(0.1)
    if child is not None:
        child.kill()
    while config.action == "wait" and not (directory / "go").exists():
        time.sleep(0.1)
    return {"number": config.number, "threads": config.train.threads}


def stays(directory: Path, number: int) -> list[dict[str, Any]]:
    """What a job noted."""
    path = directory / f"{number}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def launch(directory: Path, overrides: list[str], jobs: list[list[str]]) -> list[JobReturn]:
    """Compose, make the launcher, launch."""
    conf = directory / "conf"
    if not conf.exists():
        shutil.copytree(CONF / "hydra", conf / "hydra")
        (conf / "config.yaml").write_text(CONFIG.format(outputs=directory))
    hydra = Hydra(task_name="app", config_loader=Loader(create_config_search_path(str(conf))))
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)
    config = hydra.compose_config("config", overrides, RunMode.MULTIRUN, with_log_configuration=True)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    return list(launcher.launch(jobs, initial_job_idx=0))


def main() -> None:
    directory, *arguments = sys.argv[1:]
    middle = arguments.index("--")
    returns = launch(Path(directory), arguments[:middle], [job.split() for job in arguments[middle + 1 :]])
    told = [
        item.return_value
        if item.status is JobStatus.COMPLETED
        else f"{type(item._return_value).__name__}: {item._return_value}"
        for item in returns
    ]
    (Path(directory) / "returns.json").write_text(json.dumps(told))


if __name__ == "__main__":
    from tests.cluster import app  # pickled by reference, as the package's own task is

    app.main()

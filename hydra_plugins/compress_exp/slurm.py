"""The SLURM launcher as Hydra finds it at every start: its settings, and what a machine needs for it; light imports."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from compress_exp.config.checks import UserError


@dataclass(kw_only=True, eq=False)
class SlurmLauncher(Launcher):
    """Every job of a launch as one task of a SLURM job array; conf/hydra/launcher/slurm.yaml explains each key."""

    submitit_folder: str
    name: str
    timeout_min: int
    signal_delay_s: int
    max_num_timeout: int
    array_parallelism: int
    cpus_per_task: int | None
    gpus_per_node: int | None
    mem_gb: float | None
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    gres: str | None
    comment: str | None
    setup_commands: list[str]
    additional_parameters: dict[str, Any]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over.

        Raises:
            UserError: this machine cannot submit, or a job would be asked to leave as soon as it starts.
        """
        if self.signal_delay_s >= 60 * self.timeout_min:
            reason = f"{self.signal_delay_s} s before the end of {self.timeout_min} min leaves no time to work"
            raise UserError(f"hydra.launcher.signal_delay_s: {reason}; make it smaller or timeout_min larger")
        if find_spec("submitit") is None:
            raise UserError("hydra/launcher=slurm needs submitit; install it: pip install 'compress_exp[slurm]'")
        missing = [command for command in ("sbatch", "srun", "squeue") if shutil.which(command) is None]
        if missing:
            raise UserError(f"hydra/launcher=slurm: no {missing[0]} on PATH here; start it on a host of the cluster")
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit, wait for all jobs, return what each returned, or the sentence of why it did not.

        Raises:
            UserError: `sbatch` takes none of them.
        """
        from compress_exp.launchers.remote import Remote
        from compress_exp.launchers.slurm import launch

        sweep = Remote.here(self.context, self.function, self.config)
        return launch(self, sweep, job_overrides, initial_job_idx)

"""One job of a sweep in a process that Hydra did not start: what all our launchers run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from compress_exp.config.checks import UserError
from compress_exp.config.refusal import sentence
from compress_exp.parallel.cores import available_cores


@dataclass(frozen=True)
class Remote:
    """A sweep as it travels: with it another process composes and runs any of its jobs.

    Attributes:
        context: how Hydra composes.
        function: what runs each job, pickled by reference.
        config: the sweep's own configuration.
        singletons: Hydra's global state, with the resolvers.
        place: the working directory, which relative paths start from.
    """

    context: HydraContext
    function: TaskFunction
    config: DictConfig
    singletons: dict[Any, Any]
    place: str

    @classmethod
    def here(cls, context: HydraContext, function: TaskFunction, config: DictConfig) -> Remote:
        """The sweep of this process."""
        return cls(context, function, config, Singleton.get_state(), os.getcwd())

    def __call__(self, overrides: Sequence[str], number: int, job: str, cores: int | None) -> JobReturn:
        """Run one job; its failure comes back as one sentence, since not every exception can travel.

        Args:
            overrides: of the job.
            number: of the job in its launch.
            job: what the cluster calls it.
            cores: its share of the host, shared out over its devices for `train.threads=null`.
        """
        if not Path(self.place).is_dir():
            raise UserError(
                f"{self.place}: there is no such directory on {os.uname().nodename}; jobs need the same one"
            )
        os.chdir(self.place)
        Singleton.set_state(self.singletons)
        setup_globals()
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config.hydra.job):
            config.hydra.job.id, config.hydra.job.num = job, number
        if cores is not None and "train" in config and config.train.threads is None:
            config.train.threads = max(1, min(cores, available_cores()) // config.train.devices)
        done = run_job(self.function, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
        if done.status is JobStatus.FAILED:
            done.return_value = UserError(sentence(done._return_value))
        return done


def failed(overrides: Sequence[str], reason: str) -> JobReturn:
    """What a launcher returns for a job that returned nothing."""
    return JobReturn(overrides=list(overrides), status=JobStatus.FAILED, _return_value=UserError(reason))

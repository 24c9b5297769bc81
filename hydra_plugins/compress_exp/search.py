"""The searching sweeper: Optuna draws the runs. Light imports only: Hydra loads this module at every start."""

from __future__ import annotations

import sys

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from compress_exp.config.checks import UserError
from compress_exp.config.secrecy import hide_secrets

STORAGE = "hydra.sweeper.storage="


class OptunaSweeper(Sweeper):
    """Draws runs that are good in all `objectives`, and shows those that none is better than.

    Args:
        n_trials: the number of trials of the study, over all times it was started; failed ones count.
        n_jobs: trials that are drawn and launched at once.
        sampler: tpe, nsgaii or random.
        seed: of what is drawn.
        storage: a URL; null is a SQLite file under the outputs.
        study_name: null names the study after what is searched.
        params: more of the space, for one kept in a file; the command line wins.
        identify: the dotted name of a function that checks a run's configuration and tells what it asks for.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int = 1,
        sampler: str = "tpe",
        seed: int = 0,
        storage: str | None = None,
        study_name: str | None = None,
        params: dict[str, str] | None = None,
        identify: str | None = None,
    ) -> None:
        self.n_trials, self.n_jobs, self.sampler, self.seed = n_trials, n_jobs, sampler, seed
        self.storage, self.study_name = storage, study_name
        self.params, self.identify = params or {}, identify

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over; jobs, records and tracking get it without the storage and its password."""
        self.context, self.function, self.root = hydra_context, task_function, config
        given = config.hydra.overrides.hydra
        config.hydra.overrides.hydra = [item for item in given if not item.startswith(STORAGE)]
        config.hydra.sweeper.storage = None
        sys.argv[:] = [hide_secrets(item) if item.startswith(STORAGE) else item for item in sys.argv]

    def sweep(self, arguments: list[str]) -> None:
        """Search, and show what was found.

        Raises:
            UserError: something cannot work; nothing has run.
            SweepFailed: there is no result.
        """
        try:
            from compress_exp.search.search import Settings, search
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != "optuna":
                raise
            raise UserError(
                "hydra/sweeper=optuna: Optuna is not installed; pip install 'compress_exp[optuna]'"
            ) from error
        from compress_exp.sweep.sweep import Sweep

        space = [f"{key}={value}" for key, value in self.params.items()] + arguments
        sweep = Sweep(self.context, self.function, self.root, [*space, "hydra/sweeper=optuna"], self.identify)
        settings = Settings(self.n_trials, self.n_jobs, self.sampler, self.seed, self.storage, self.study_name)
        search(settings, sweep, self.root, space)

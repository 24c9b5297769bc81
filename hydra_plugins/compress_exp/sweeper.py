"""The grid sweeper: every combination, all composed before the first starts, and a table whatever happens.

Unlike Hydra's own it expands `glob(prune/*)` through folders, refuses a sweep of nothing, launches only what is not
there yet, lets the others go on when one job fails, and ends with the records of this sweep, a sentence for each
failure, and exit code 1 if there are any.
Built on pieces of hydra-core 1.3 (pinned). Nothing heavy is imported: Hydra loads this module at every start.
"""

from __future__ import annotations

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from compress_exp.config.overrides import combinations


class GridSweeper(Sweeper):
    """Every combination of the values on the command line and in `params`.

    Args:
        params: more overrides, for a grid kept in a file: `{method: "prune,[prune,quant]"}`; the command line wins.
        identify: the dotted name of a function that checks every job's configuration before any is launched and tells
            what it asks for; jobs that it refuses are listed and left out.
    """

    def __init__(self, params: dict[str, str] | None = None, identify: str | None = None) -> None:
        self.params = params or {}
        self.identify = identify

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over; the launcher is made once the number of jobs is known."""
        self.context, self.function, self.root = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Compose, launch what is missing, show the table, list the failures.

        Raises:
            UserError: a job does not compose; nothing has run.
            SweepFailed: jobs failed; all others have run.
        """
        from compress_exp.sweep.sweep import Sweep

        grid = [f"{key}={value}" for key, value in self.params.items()] + arguments
        batch = combinations(grid, self.context.config_loader)
        sweep = Sweep(self.context, self.function, self.root, grid, self.identify)
        members = sweep.members(batch)
        try:
            sweep.launch(members)
        finally:
            sweep.close()
        sweep.verdict()

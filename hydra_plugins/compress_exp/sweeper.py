"""The grid sweeper: every combination, all composed before the first starts, and a table whatever happens.

Unlike Hydra's own it expands `glob(prune/*)` through folders, refuses a sweep of nothing, lets the others go on when
one job fails, and ends with the records of this sweep, a sentence for each failure, and exit code 1 if there are any.
Built on pieces of hydra-core 1.3 (pinned). Nothing heavy is imported: Hydra loads this module at every start.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from compress_exp.errors import SweepFailed, explain, make_outputs, refusal
from compress_exp.overrides import combinations

log = logging.getLogger("compress_exp")


class Job:
    """The task function of a sweep: says which job begins, and remembers what the jobs of this process returned.

    A launcher that works in other processes carries a copy along; its results come back from the launcher only.
    """

    def __init__(self, function: TaskFunction, total: int) -> None:
        self.function = function
        self.total = total
        self.results: list[Any] = []

    def __call__(self, config: DictConfig) -> Any:
        """Run one job."""
        hydra = HydraConfig.get()
        log.info("[%d/%d] %s", hydra.job.num + 1, self.total, " ".join(hydra.overrides.task))
        result = self.function(config)
        self.results.append(result)
        return result


class GridSweeper(Sweeper):
    """Every combination of the values on the command line and in `params`.

    Args:
        params: more overrides, for a grid kept in a file: `{method: "prune,[prune,quant]"}`; the command line wins.
        check: the dotted name of a function that is called with every job's configuration before any is launched; jobs
            that it refuses are listed and left out.
    """

    def __init__(self, params: dict[str, str] | None = None, check: str | None = None) -> None:
        self.params = params or {}
        self.check = check

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over; the launcher is made once the number of jobs is known."""
        self.context, self.function, self.root = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Compose, launch in one batch, show the table, list the failures.

        Raises:
            UserError: a job does not compose; nothing has run.
            SweepFailed: jobs failed; all others have run.
        """
        loader = self.context.config_loader
        make_outputs(self.root.outputs)
        batch = combinations([f"{key}={value}" for key, value in self.params.items()] + arguments, loader)
        configs = [self._compose(overrides) for overrides in batch]
        refused = {
            " ".join(overrides): reason
            for overrides, config in zip(batch, configs, strict=True)
            if (reason := self._refused(config))
        }
        failures = [f"{overrides}: {reason}" for overrides, reason in refused.items()]
        for line in failures:
            log.error("refused: %s", line)
        total, batch = len(batch), [overrides for overrides in batch if " ".join(overrides) not in refused]
        job = Job(self.function, len(batch))
        launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=job, config=self.root
        )
        returns: list[JobReturn] = []
        try:
            returns = list(launcher.launch(batch, initial_job_idx=0)) if batch else []
        except Exception as error:  # the launcher itself: a lost cluster job, a refused submission
            if refusal(error) is None:
                traceback.print_exception(error)
            failures.append(f"{type(launcher).__name__}: {_sentence(error)}")
        finally:
            failures += [_failure(item) for item in returns if item.status is not JobStatus.COMPLETED]
            records = job.results or [item.return_value for item in returns if item.status is JobStatus.COMPLETED]
            self._close(records, failures, total)
        if failures:
            raise SweepFailed(f"{len(failures)} of {total} runs failed")
        return returns

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        loader = self.context.config_loader
        try:
            return loader.load_sweep_config(self.root, list(overrides))
        except HydraException as error:
            hydra = list(self.root.hydra.overrides.hydra)
            raise explain(error, [*hydra, *overrides], loader) from error

    def _refused(self, config: DictConfig) -> str | None:
        try:
            if self.check is not None:
                own = [str(name) for name in config if name != "hydra"]
                get_method(self.check)(OmegaConf.masked_copy(config, own))
        except Exception as error:
            return _sentence(error)
        return None

    def _close(self, records: Sequence[Any], failures: Sequence[str], total: int) -> None:
        ids = [record["run"]["id"] for record in records if isinstance(record, dict)]
        if ids:
            from compress_exp.report.summary import report

            try:
                report(Path(self.root.outputs), ids)
            except OSError as error:  # the failures below are still to be told
                log.error("no table: %s", refusal(error) or error)
        if failures:
            lines = "\n".join(f"  {line}" for line in failures)
            log.error("%d of %d runs failed:\n%s", len(failures), total, lines)


def _failure(item: JobReturn) -> str:
    error = item._return_value
    reason = _sentence(error) if isinstance(error, BaseException) else "the run did not finish"
    return f"{' '.join(item.overrides or [])}: {reason}"


def _sentence(error: BaseException) -> str:
    lines = str(error).splitlines() or [""]
    return refusal(error) or f"{type(error).__name__}: {lines[0]}"

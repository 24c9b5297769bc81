"""The Ray launcher as Hydra finds it at every start: its settings; light imports."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from compress_exp.config.checks import UserError, check_number


@dataclass(kw_only=True, eq=False)
class RayLauncher(Launcher):
    """Every job of a launch as a task of a Ray cluster; conf/hydra/launcher/ray.yaml explains each key."""

    address: str
    num_cpus: int
    num_gpus: float
    resources: dict[str, float]
    max_retries: int

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over.

        Raises:
            UserError: Ray is not installed.
        """
        if find_spec("ray") is None:
            raise UserError("hydra/launcher=ray needs Ray; install it: pip install 'compress_exp[ray]'")
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs on the cluster; return what each returned, or the sentence of why it did not.

        Raises:
            UserError: no cluster answers.
        """
        from compress_exp.launchers.ray import launch
        from compress_exp.launchers.remote import Remote

        check_number("hydra.launcher.num_cpus", self.num_cpus, 1)
        return launch(self, Remote.here(self.context, self.function, self.config), job_overrides, initial_job_idx)

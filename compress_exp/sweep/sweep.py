"""A sweep: which of its runs are there, and launching the others in waves, whatever launches and whatever dies.

The truth about a run is its directory: what a launcher returns may be lost with a process, so the outcome of every job
is read from disk. Baselines and stages that several runs share are launched first, so that no job waits for another's.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from compress_exp.config.build import build
from compress_exp.config.checks import UserError
from compress_exp.config.explain import explain
from compress_exp.config.overrides import parse
from compress_exp.config.refusal import SweepFailed, refusal, sentence
from compress_exp.config.secrecy import kept
from compress_exp.outputs.files import make_outputs
from compress_exp.outputs.lease import SECONDS, holder
from compress_exp.outputs.manifest import FAILED, FINISHED, MISSING, REFUSED, RUNNING, Manifest, Member, fingerprint
from compress_exp.outputs.progress import failure
from compress_exp.outputs.records import finished, keep_score
from compress_exp.outputs.store import Store
from compress_exp.sweep.waves import Task, next_wave

log = logging.getLogger("compress_exp")
LOOK_SECONDS = 2.0


class Job:
    """The task function of a sweep: says which job begins."""

    def __init__(self, function: TaskFunction, total: int) -> None:
        self.function, self.total = function, total

    def __call__(self, config: DictConfig) -> Any:
        """Run one job."""
        hydra = HydraConfig.get()
        log.info("[%d/%d] %s", hydra.job.num + 1, self.total, " ".join(hydra.overrides.task))
        return self.function(config)


class Sweep:
    """The jobs of one command.

    Args:
        context: Hydra's.
        function: does one job.
        root: the sweep's own configuration.
        arguments: overrides that make the sweep, for its name.
        identify: the dotted name of a function that checks a job's configuration and tells its identity; None where
            there is nothing to tell: every job is launched, and counts by what the launcher returns.
    """

    def __init__(
        self,
        context: HydraContext,
        function: TaskFunction,
        root: DictConfig,
        arguments: Sequence[str],
        identify: str | None,
    ) -> None:
        self.context, self.function, self.root = context, function, root
        self.loader = cast(ConfigLoaderImpl, context.config_loader)
        self.identify: Callable[[DictConfig], Any] | None = get_method(identify) if identify else None
        self.dry = bool(root.get("plan"))
        self.outputs = make_outputs(root.outputs)
        self.store = Store(self.outputs / "artifacts")
        places = [(source.schema, source.path) for source in root.hydra.runtime.config_sources]
        launcher = str(root.hydra.runtime.choices.get("hydra/launcher"))
        self.manifest = Manifest(self.outputs, arguments, launcher, fingerprint(root, places, arguments))
        self.known = self.manifest.known()
        self.composed: dict[tuple[str, ...], DictConfig] = {}
        self.everything: list[Member] = []
        self.started = time.time()
        self.lease_seconds = float(root.get("lease_seconds", SECONDS))

    def members(self, batch: Sequence[Sequence[str]]) -> list[Member]:
        """The jobs, each with what is known of it: refused, finished, worked on by another process, or missing.

        Raises:
            UserError: a job does not compose; nothing has run.
        """
        members = [self._member(tuple(overrides)) for overrides in batch]
        for member in members:
            if member.state is REFUSED:
                log.error("refused: %s: %s", member.label, member.reason)
            else:
                self._look(member)
        self.everything += members
        self._write()
        there = sum(member.state is FINISHED for member in members)
        if there:
            log.info("%d of %d runs are finished", there, len(members))
        return members

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one job; jobs that differ in plain values share the work on their groups.

        Raises:
            UserError: it does not compose.
        """
        loader = self.loader
        values = tuple(item for item in overrides if self._is_value(item))
        groups = tuple(item for item in overrides if item not in values)
        try:
            if groups not in self.composed:
                self.composed[groups] = loader.load_sweep_config(self.root, list(groups))
            config = deepcopy(self.composed[groups])
            loader._apply_overrides_to_config(parse(values, loader), config)
            return config
        except (HydraException, ValueError):
            pass
        try:
            return loader.load_sweep_config(self.root, list(overrides))
        except HydraException as error:
            hydra = list(self.root.hydra.overrides.hydra)
            raise explain(error, [*hydra, *overrides], loader) from error

    def launch(self, members: Sequence[Member]) -> None:
        """Run what is missing, in waves; afterwards every member is finished, refused or failed."""
        told = False
        try:
            while waiting := [member for member in members if member.state in (MISSING, RUNNING)]:
                for member in waiting:
                    self._look(member)
                if missing := [member for member in waiting if member.state is MISSING]:
                    self._run(next_wave(missing, lambda key: self.dry or self.store.find(key) is not None))
                elif running := [member for member in waiting if member.state is RUNNING]:
                    if not told:
                        told = True
                        log.info("waiting for %d runs that other processes work on:", len(running))
                        for member in running:
                            log.info("  %s: %s", member.label, member.reason)
                    time.sleep(LOOK_SECONDS)
        finally:
            for member in members:
                if member.state is RUNNING:
                    self._look(member)
            self._write()

    def record(self, member: Member) -> dict[str, Any] | None:
        """The record of a finished member."""
        identity = member.identity
        if identity is None or member.state is not FINISHED:
            return None
        return finished(self._directory(member), identity.every_stage, identity.score)

    def close(self) -> None:
        """Show the table of what is finished, write the page, then tell a sentence for each failure."""
        done = [member for member in self.everything if member.state is FINISHED and member.identity]
        ids = [member.identity.run for member in done if member.identity and member.identity.until is None]
        failed = self.identify is not None and any(member.state is FAILED for member in self.everything)
        if (ids or failed) and not self.dry:
            from compress_exp.report.card import complete
            from compress_exp.report.summary import report

            complete(self.outputs, ids)
            try:
                report(self.outputs, ids)
            except Exception as error:  # the failures below are still to be told
                log.error("no table: %s", sentence(error))
        if failures := self._failures():
            lines = "\n".join(f"  {member.label}: {member.reason}" for member in failures)
            log.error("%d of %d runs failed:\n%s", len(failures), len(self.everything), lines)

    def verdict(self) -> None:
        """Require that nothing failed.

        Raises:
            SweepFailed: something did.
        """
        if failures := self._failures():
            raise SweepFailed(f"{len(failures)} of {len(self.everything)} runs failed")

    def _failures(self) -> list[Member]:
        return [member for member in self.everything if member.state in (FAILED, REFUSED)]

    def _member(self, overrides: tuple[str, ...]) -> Member:
        if self.identify is None:
            self.compose(overrides)
            return Member(overrides)
        if (identity := self.known.get(tuple(kept(overrides)))) is not None:
            return Member(overrides, identity)
        config = self.compose(overrides)
        own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
        try:
            identity = self.identify(own)
        except Exception as error:
            return Member(overrides, None, REFUSED, sentence(error))
        self.manifest.watch(own)
        return Member(overrides, identity)

    def _is_value(self, override: str) -> bool:
        key = override.partition("=")[0]
        return key[:1] not in "+~" and "@" not in key and not self.loader.repository.group_exists(key)

    def _look(self, member: Member) -> None:
        """Set the state of a member that is neither finished, failed nor refused, from what is on disk."""
        identity = member.identity
        if identity is None or self.dry:
            return
        if self._done(member) and self._shown(member):
            member.state, member.reason = FINISHED, None
            if identity.until is None:
                keep_score(self._directory(member), identity.score, self.lease_seconds)
        elif (other := holder(self._directory(member))) is not None and other.alive:
            member.state, member.reason = RUNNING, f"{other} works on it"
        else:
            member.state, member.reason = MISSING, None

    def _done(self, member: Member) -> bool:
        identity = member.identity
        assert identity is not None
        if identity.until is not None:
            return all(self.store.find(key) for key in identity.chain[: identity.until + 1])
        directory = self._directory(member)
        if identity.force and not newer(directory / "record.json", self.started):
            return False
        return finished(directory, identity.every_stage, identity.score) is not None

    def _shown(self, member: Member) -> bool:
        """Whether the tracker has it; what was measured but never shown is launched again to be shown."""
        asked = member.identity
        if asked is None or asked.tracking is None or asked.until is not None:
            return True
        return bool(build(asked.tracking, "tracking").done(self._directory(member)))

    def _run(self, wave: list[Task]) -> None:
        """Launch one wave, and read from disk what became of it."""
        if any(task.key for task in wave):
            log.info("first what several runs share:")
        for task in wave:
            for member in task.members:
                member.state, member.reason = RUNNING, None
        self._write()
        began = time.time()
        force = any(member.identity and member.identity.force for task in wave for member in task.members)
        since = [f"since={self.started}"] if force else []
        answers = self._launch([[*task.overrides, *since] for task in wave])
        for task, answer in zip(wave, answers, strict=True):
            self._settle(task, answer, began)
        self._write()

    def _settle(self, task: Task, answer: Any, began: float) -> None:
        for member in task.members:
            if task.key is not None:
                done, after = self.store.find(task.key) is not None, MISSING
            elif member.identity is None or self.dry:
                done, after = answer is None, FINISHED
            else:
                done, after = self._done(member), FINISHED
            member.state, member.reason = (after, None) if done else (FAILED, self._reason(task, answer, began))

    def _reason(self, task: Task, answer: BaseException | None, began: float) -> str:
        told = failure(self.outputs / "runs" / task.name, began) if task.name else None
        reason = told or (sentence(answer) if answer else "the run ended without a word; the same command tries again")
        return reason if task.key is None else f"{task.overrides[-1]}: {reason}"

    def _launch(self, batch: list[list[str]]) -> list[BaseException | None]:
        """What each job raised, None for those that returned."""
        launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=Job(self.function, len(batch)), config=self.root
        )
        try:
            returns = list(launcher.launch(batch, initial_job_idx=0))
        except UserError:  # the launcher cannot be used like this
            raise
        except Exception as error:  # the launcher itself: a lost cluster
            if refusal(error) is None:
                traceback.print_exception(error)
            return [error for _ in batch]
        return [_raised(item) for item in returns]

    def _directory(self, member: Member) -> Path:
        assert member.identity is not None
        return self.outputs / "runs" / member.identity.name

    def _write(self) -> None:
        if not self.dry and any(member.state is not REFUSED for member in self.everything):
            self.manifest.write(self.everything)


def newer(path: Path, than: float) -> bool:
    """Whether a file was written after a time."""
    try:
        return path.stat().st_mtime >= than
    except OSError:
        return False


def _raised(item: JobReturn) -> BaseException | None:
    if item.status is JobStatus.COMPLETED:
        return None
    error = item._return_value
    return error if isinstance(error, BaseException) else RuntimeError("the run did not finish")

"""One search, top to bottom: the space, the study, its trials in batches, then the Pareto set measured and shown."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from compress_exp.config.build import build
from compress_exp.config.checks import FieldError, UserError, check_choice, check_number
from compress_exp.config.refusal import SweepFailed
from compress_exp.config.secrecy import hide_secrets
from compress_exp.outputs.files import digest
from compress_exp.outputs.lease import LeaseLost, leased
from compress_exp.outputs.manifest import FAILED, Member
from compress_exp.outputs.objectives import MAXIMIZE, MINIMIZE, Objective, parse
from compress_exp.outputs.progress import failure
from compress_exp.search.space import read
from compress_exp.search.splits import measured_on, on_holdout
from compress_exp.search.storage import open_study, place, told
from compress_exp.search.study import OVERRIDES, REASON, SAMPLERS, Evaluate, Outcome, Search
from compress_exp.search.table import Result, show
from compress_exp.sweep.sweep import Sweep

log = logging.getLogger("compress_exp")

OBJECTIVES = "objectives"
ELSEWHERE = ("outputs", "tracking", "force", "since", "lease_seconds")  # may be others where the study goes on


@dataclass(frozen=True)
class Settings:
    """How a search goes; see `conf/hydra/sweeper/optuna.yaml`."""

    n_trials: int
    n_jobs: int
    sampler: str
    seed: int
    storage: str | None
    study_name: str | None

    def check(self) -> None:
        """Require sensible values.

        Raises:
            UserError: one sentence.
        """
        try:
            for name, value, low in (
                ("n_trials", self.n_trials, 1),
                ("n_jobs", self.n_jobs, 1),
                ("seed", self.seed, 0),
            ):
                if not isinstance(value, int):
                    raise FieldError(name, f"{value!r} is not allowed, a whole number of at least {low} is")
                check_number(name, value, low)
            check_choice("sampler", self.sampler, SAMPLERS)
        except FieldError as error:
            raise UserError(f"hydra.sweeper.{error}") from error


def search(settings: Settings, sweep: Sweep, root: DictConfig, arguments: Sequence[str]) -> None:
    """Search until the study has as many trials as asked for, then measure and show its Pareto set.

    Args:
        settings: how.
        sweep: runs the trials.
        root: the search's own configuration.
        arguments: the space, as overrides.

    Raises:
        UserError: something cannot work; nothing has run.
        SweepFailed: there is no result, or a part of it could not be measured.
    """
    settings.check()
    for name in ("plan", "until"):
        if root.get(name):
            raise UserError(f"{name}: a search goes by measured runs, so {name}={root[name]} cannot be set with it")
    space = read(arguments, sweep.loader, sweep.compose).without([OBJECTIVES])[0]
    space, here = space.without(ELSEWHERE)
    if not space.drawn:
        raise UserError("hydra/sweeper: a search needs something to choose, such as method=prune,quant")
    evaluate = partial(_evaluate, sweep, here)
    configs = [space.compose(overrides) for overrides in space.examples()]
    objectives = [_directed(objective, configs) for objective in _objectives(root)]
    space, split = on_holdout(space, configs[0])
    if sweep.identify is not None:
        _check(sweep.identify, [sweep.compose([*overrides, *here]) for overrides in space.examples()])
    identity = space.identity() | {OBJECTIVES: [[item.path, item.direction] for item in objectives]}
    name = settings.study_name or f"search-{digest(identity)[:8]}"
    url = place(settings.storage, sweep.outputs, name)
    with _alone(sweep.outputs / "searches" / name, root.lease_seconds, name) as still_alone, told(url):
        study = open_study(url, name, [str(item.direction) for item in objectives], identity)
        found = Search(study, space, objectives, settings.sampler, settings.seed, settings.n_trials, settings.n_jobs)
        done = len(found.ended())
        log.info("%s: %d of %d trials are done, kept in %s", name, done, settings.n_trials, hide_secrets(url))
        found.run(evaluate, still_alone)
        _close(found, evaluate, split, here)


def _objectives(root: DictConfig) -> list[Objective]:
    try:
        return parse(root.objectives)
    except FieldError as error:
        raise UserError(str(error)) from error


def _directed(objective: Objective, configs: Sequence[DictConfig]) -> Objective:
    """The objective with the direction of the task's primary metric, where it has none of its own."""
    if objective.direction is not None:
        return objective
    higher = {build(config.task, "task").higher_is_better for config in configs}
    if len(higher) > 1:
        raise UserError(
            f"objectives: {objective.path} is better higher in one task, lower in another; use quality/retained"
        )
    return replace(objective, direction=MAXIMIZE if higher == {True} else MINIMIZE)


def _check(identify: Callable[[DictConfig], Any], configs: Sequence[DictConfig]) -> None:
    """Require that one of the configurations, at least, can work; that others cannot is for the search to find out."""
    errors = []
    for config in configs:
        own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
        try:
            identify(own)
            return
        except UserError as error:
            errors.append(error)
    raise errors[0]


@contextmanager
def _alone(path: Path, seconds: float, name: str) -> Iterator[Callable[[], None]]:
    """Keep two processes from the same search; gives what raises once another took over."""
    try:
        with leased(path, seconds, name) as lease:
            yield lease.check
    except LeaseLost as error:
        raise UserError(f"{name}: this process gave no sign of life, another one took the search over") from error


def _evaluate(sweep: Sweep, here: Sequence[str], batch: Sequence[Sequence[str]]) -> list[Outcome]:
    members, began = sweep.members([[*overrides, *here] for overrides in batch]), time.time()
    sweep.launch(members)
    return [Outcome(sweep.record(member), member.reason, _lost(sweep, member, began)) for member in members]


def _lost(sweep: Sweep, member: Member, began: float) -> bool:
    """Whether a run ended without having said why."""
    if member.identity is None or member.state != FAILED:
        return False
    return failure(sweep.outputs / "runs" / member.identity.name, began) is None


def _close(found: Search, evaluate: Evaluate, split: str | None, here: Sequence[str]) -> None:
    """List what failed; measure the Pareto set on rows that no choice looked at, and show it."""
    ended = found.ended()
    failed = [trial for trial in ended if trial.state is TrialState.FAIL]
    if failed:
        lines = "\n".join(f"  trial {trial.number + 1}: {trial.user_attrs.get(REASON)}" for trial in failed)
        log.error("%d of %d trials failed:\n%s", len(failed), len(ended), lines)
    if not (best := found.pareto()):
        raise SweepFailed("no trial has finished")
    log.info(
        "%d of %d trials are in the Pareto set%s", len(best), len(ended), f", measured on {split} now" if split else ""
    )
    commands = [list(trial.user_attrs[OVERRIDES]) for trial in best]
    outcomes: Sequence[Outcome] = [Outcome(None)] * len(best)
    if split is not None:
        commands = [measured_on(overrides, split) for overrides in commands]
        outcomes = evaluate(commands)
    results = [
        Result(trial.number, found.own(overrides), trial.values, outcome.record, [*overrides, *here])
        for trial, overrides, outcome in zip(best, commands, outcomes, strict=True)
    ]
    show(results, found.objectives, split)
    unmeasured = [
        f"  trial {result.number + 1}: {outcome.reason}"
        for result, outcome in zip(results, outcomes, strict=True)
        if split is not None and outcome.record is None
    ]
    if unmeasured:
        log.error("%d of %d could not be measured on %s:\n%s", len(unmeasured), len(best), split, "\n".join(unmeasured))
        raise SweepFailed("a part of the Pareto set could not be measured")

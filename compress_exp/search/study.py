"""The search: asks for trials, tells what came of them, and goes on where a killed one stopped."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from compress_exp.config.refusal import SweepFailed
from compress_exp.outputs.objectives import Objective
from compress_exp.search.space import Space

log = logging.getLogger("compress_exp")

SAMPLERS = ("tpe", "nsgaii", "random")
GENERATION = 10
OVERRIDES, REASON, LOST = "overrides", "reason", "lost"  # what a trial of ours keeps beside its parameters
LOST_BATCHES = 2
ENDED = (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)


@dataclass(frozen=True)
class Outcome:
    """What came of one trial.

    Attributes:
        record: of its run; None where it failed.
        reason: why it failed, in one sentence.
        lost: whether it was stopped from outside, as by a cancelled job or a full disk: it is tried once more.
    """

    record: dict[str, Any] | None
    reason: str | None = None
    lost: bool = False


Evaluate = Callable[[Sequence[Sequence[str]]], Sequence[Outcome]]


@dataclass(frozen=True)
class Search:
    """A study with what it searches and how; the study keeps all state.

    Attributes:
        study: in its storage.
        space: what trials draw from.
        objectives: what is read from a record.
        sampler: "tpe", "nsgaii" or "random".
        seed: with a trial's number decides what it draws, so that a resumed search draws what it would have drawn.
        total: the number of trials of the study, whoever ran them; failed ones count.
        parallel: trials in a batch.
    """

    study: optuna.Study
    space: Space
    objectives: Sequence[Objective]
    sampler: str
    seed: int
    total: int
    parallel: int

    def run(self, evaluate: Evaluate, check: Callable[[], None]) -> None:
        """Run trials in batches until the study has as many as asked for.

        Args:
            evaluate: runs the overrides of several trials and returns what came of each.
            check: called before each batch; raises where another process took over the study.

        Raises:
            SweepFailed: two batches in a row were lost; the same search goes on with them.
        """
        lost = 0
        for trials in self._batches(check):
            drawn = [self._draw(trial) for trial in trials]
            different = [list(overrides) for overrides in dict.fromkeys(map(tuple, drawn))]
            outcomes = dict(zip(map(tuple, different), evaluate(different), strict=True))
            for trial, overrides in zip(trials, drawn, strict=True):
                self._tell(trial, overrides, outcomes[tuple(overrides)])
            lost = lost + 1 if all(outcome.lost for outcome in outcomes.values()) else 0
            if lost == LOST_BATCHES:
                raise SweepFailed(f"nothing of {lost} batches came back; the same command goes on with them")

    def ended(self) -> list[FrozenTrial]:
        """The trials that are over."""
        return self.study.get_trials(deepcopy=False, states=ENDED)

    def pareto(self) -> list[FrozenTrial]:
        """The trials that no other one is better than in all objectives, of equal overrides the first."""
        found: dict[tuple[str, ...], FrozenTrial] = {}
        for trial in sorted(self.study.best_trials, key=lambda trial: trial.number):
            found.setdefault(tuple(trial.user_attrs[OVERRIDES]), trial)
        return sorted(found.values(), key=lambda trial: trial.values)

    def own(self, overrides: Sequence[str]) -> list[str]:
        """What was drawn of the overrides of a trial."""
        return [item for item in overrides if item.partition("=")[0] in self.space.drawn]

    def _batches(self, check: Callable[[], None]) -> Iterator[list[Trial]]:
        """Trials that a killed process left behind, then new ones, then those that were lost meanwhile."""
        yield from self._left(check)
        while (missing := self.total - len(self._begun())) > 0:
            check()
            yield [self._ask() for _ in range(min(missing, self.parallel))]
        yield from self._left(check)

    def _left(self, check: Callable[[], None]) -> Iterator[list[Trial]]:
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for start in range(0, len(running), self.parallel):
            check()
            yield [self._again(trial) for trial in running[start : start + self.parallel]]

    def _begun(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(*ENDED, TrialState.RUNNING))

    def _ask(self) -> Trial:
        self.study.sampler = make_sampler(self.sampler, self.seed, len(self._begun()), self.parallel > 1)
        return self.study.ask()

    def _again(self, trial: FrozenTrial) -> Trial:
        """The trial as `ask` would give it: what was drawn stays, what was not is drawn now."""
        self.study.sampler = make_sampler(self.sampler, self.seed, trial.number, self.parallel > 1)
        return Trial(self.study, trial._trial_id)

    def _draw(self, trial: Trial) -> list[str]:
        if OVERRIDES not in trial.user_attrs:
            trial.set_user_attr(OVERRIDES, self.space.overrides(trial))
        return list(trial.user_attrs[OVERRIDES])

    def _tell(self, trial: Trial, overrides: Sequence[str], outcome: Outcome) -> None:
        name = f"trial {trial.number + 1}/{self.total} {' '.join(self.own(overrides))}"
        found = [(item, item.value(outcome.record or {})) for item in self.objectives]
        values = [value for _, value in found if value is not None]
        if len(values) == len(self.objectives):
            self.study.tell(trial.number, values, skip_if_finished=True)
            shown = ", ".join(
                f"{item.path} {item.show(value)}" for item, value in zip(self.objectives, values, strict=True)
            )
            log.info("%s: %s", name, shown)
            return
        missing = ", ".join(item.path for item, value in found if value is None)
        reason = outcome.reason or f"its record has no number at {missing}"
        if outcome.lost and LOST not in trial.user_attrs:
            trial.set_user_attr(LOST, reason)
            log.error("%s: lost, to be tried once more: %s", name, reason)
            return
        if self.study.get_trials(deepcopy=False)[trial.number].state is TrialState.RUNNING:
            trial.set_user_attr(REASON, reason)
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        log.error("%s: failed: %s", name, reason)


def make_sampler(name: str, seed: int, number: int, parallel: bool) -> BaseSampler:
    """A sampler for one trial.

    Args:
        name: one of `SAMPLERS`.
        seed: of the search.
        number: the trial's.
        parallel: whether others are drawn before this one is told; those count as bad then, so that batches spread.
    """
    own = random.Random(f"{seed}/{number}").getrandbits(32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "nsgaii":
            return NSGAIISampler(population_size=GENERATION, seed=own)
        return RandomSampler(seed=own) if name == "random" else TPESampler(seed=own, constant_liar=parallel)

"""How often a stage spends its budget, and what progress means in that time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Course:
    """The trainings of a stage.

    With N > 1 rounds the progress is held at r/N from the first step of round r: the cut comes first, the rest of the
    round finetunes, and the learning rate starts again with each round. With `rewind` round r trains first, is cut at
    its end, and goes back to the weights of an early step of the first round, with a fresh optimizer; one more
    training follows the last cut (Frankle & Carbin 2019, arXiv:1803.03635; Renda et al. 2020, arXiv:2003.02389).

    Attributes:
        trainings: how often the budget is spent.
        rounds: N.
        rewind: None, or the share of the budget, in [0, 1), to whose weights every round goes back.
    """

    trainings: int = 1
    rounds: int = 1
    rewind: float | None = None

    @property
    def held(self) -> bool:
        """Whether progress moves from round to round only."""
        return self.rounds > 1 or self.rewind is not None

    def progress(self, step: int, steps: int) -> float:
        """The stage's progress after a step, counted from 0, of trainings of so many steps; exactly 1 at the last."""
        if self.rewind is not None:
            return (step // steps) / self.rounds
        if self.rounds > 1:
            return (step // steps + 1) / self.rounds
        return min(1.0, (step + 1) / steps)

    def cuts(self, done: int, steps: int) -> int | None:
        """The rounds that are over after `done` steps where the weights go back then; None where they do not."""
        if self.rewind is None or done % steps or done == self.trainings * steps:
            return None
        return done // steps

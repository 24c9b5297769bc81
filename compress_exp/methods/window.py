"""When within a stage a method is at work, and how often the stage spends its budget for it."""

from __future__ import annotations

from dataclasses import dataclass

from compress_exp.config.checks import FieldError, check_number
from compress_exp.config.identity import later
from compress_exp.methods.course import Course


@dataclass(frozen=True, kw_only=True)
class Window:
    """A method's own share of the progress of its stage.

    Attributes:
        start: progress of the stage at which it begins.
        end: progress of the stage at which it is done.
    """

    start: float = later(0.0, before=0.0)
    end: float = later(1.0, before=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # it stands before `Method` among the bases
        check_number("start", self.start, 0, 1)
        check_number("end", self.end, 0, 1)
        if self.start > self.end:
            raise FieldError("start", f"{self.start} lies after end={self.end}")

    def own_progress(self, progress: float) -> float:
        """The stage's progress as this method's own, from 0 at `start` to 1 at `end`."""
        if progress >= self.end:
            return 1.0
        return 0.0 if progress <= self.start else (progress - self.start) / (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Iterative training: the budget is spent more than once.

    Attributes:
        rounds: how often; progress is held at r/rounds through round r.
        rewind: null, or the share of the budget, in [0, 1), to whose weights every round ends by going back: round r
            then trains at progress (r − 1)/rounds, is cut to r/rounds and rewound, and one more training follows.
    """

    rounds: int = later(1, before=1)
    rewind: float | None = later(None, before=None)

    def __post_init__(self) -> None:
        check_number("rounds", self.rounds, 1)
        if self.rewind is not None:
            check_number("rewind", self.rewind, 0, 0.999)
        super().__post_init__()  # type: ignore[misc]  # it stands before a `Method` among the bases

    @property
    def course(self) -> Course:
        """How often the budget is spent, and how."""
        return Course(self.rounds + (self.rewind is not None), self.rounds, self.rewind)

    def own_progress(self, progress: float) -> float:
        """In rounds that of the stage, which stands still through a round."""
        own: float = progress if self.course.held else super().own_progress(progress)  # type: ignore[misc]
        return own

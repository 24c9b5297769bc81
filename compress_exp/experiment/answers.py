"""Whether a stage reads its teacher's answers from the store: decided from settings and facts, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress_exp.config.checks import FieldError, UserError, check_choice, check_number
from compress_exp.experiment.stages import Stage

if TYPE_CHECKING:
    from compress_exp.tasks.base import Task

MODES = ("never", "auto", "always")
FLOAT, INDEX, START = 4, 4, 8  # bytes of a logit, of the number of a class, of where a row begins


@dataclass(frozen=True, kw_only=True)
class TeacherCache:
    """What of a teacher's answers is kept.

    Attributes:
        mode: "never" lets the teacher run in each step; "auto" reads kept answers where that is possible; "always"
            refuses where it is not.
        megabytes: the most that the answers of a stage may take.
        top_k: the most probable classes that are kept of each answer; None keeps all, exactly.
    """

    mode: str = "never"
    megabytes: float = 512
    top_k: int | None = None

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        check_number("megabytes", self.megabytes, 0)
        if self.top_k is not None:
            if not isinstance(self.top_k, int) or isinstance(self.top_k, bool):
                raise FieldError("top_k", f"{self.top_k!r} is not allowed, a whole number or null is")
            check_number("top_k", self.top_k, 1)

    def keeps(self, stage: Stage, task: Task, vocabulary: int) -> bool:
        """Whether a stage reads kept answers.

        Args:
            stage: one of the plan.
            task: its rows are counted.
            vocabulary: entries of the model's.

        Raises:
            UserError: it is to, and cannot.
        """
        if self.mode == "never" or not stage.uses_teacher:
            return False
        reason = self._against(stage, task) or self._too_large(task, vocabulary)
        if reason is not None and self.mode == "always":
            raise UserError(f"teacher_cache.mode: {reason}")
        return reason is None

    def size(self, task: Task, vocabulary: int) -> int:
        """The most bytes that the answers take.

        Raises:
            UserError: so many classes are not there.
        """
        classes = int(task.config_overrides().get("num_labels", vocabulary))
        if self.top_k is None:
            return task.positions() * (FLOAT * classes + START)
        if self.top_k >= classes:
            told = f"{self.top_k} is not below the {classes} classes of task={task.name}; set it to null"
            raise UserError(f"teacher_cache.top_k: {told}")
        return task.positions() * ((FLOAT + INDEX) * self.top_k + START)

    def _against(self, stage: Stage, task: Task) -> str | None:
        if stage.asked:
            return f"{stage.label} learns from the teacher's {min(stage.asked)!r}, and only logits are kept; set auto"
        if stage.changes_batches:
            return f"{stage.label} learns from rows that it makes itself, and no answers to them are kept; set auto"
        if task.outputs != ("logits",):
            return f"answers of task={task.name} are places in the input, which are not kept; set auto"
        return None

    def _too_large(self, task: Task, vocabulary: int) -> str | None:
        needed = self.size(task, vocabulary) / 1e6
        if needed <= self.megabytes:
            return None
        return (
            f"the answers may take {needed:.0f} MB, more than teacher_cache.megabytes={self.megabytes:g}; "
            "raise it or set teacher_cache.top_k"
        )

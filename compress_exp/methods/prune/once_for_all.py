"""Prune once for all (Zafrir et al. 2021, arXiv:2111.05754): sparsify with distillation, then finetune the pattern.

First training: cubic magnitude pruning while learning from the dense model. Second training: the pattern is locked, the
learning rate begins again ("learning-rate rewinding"), and the model goes on learning from the dense one. The paper
sparsifies once in masked-language-model pre-training and finetunes on many tasks; here both happen on the task.
Defaults: 50 % of every tensor, cut during the first 70 % of the first training, soft targets in both.
Cost: twice the budget, with the teacher's forward pass in each step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compress_exp.methods.course import Course
from compress_exp.methods.prune.common.base import Pruning


@dataclass(frozen=True, kw_only=True)
class OnceForAll(Pruning):
    """Rank by |w| in the first training; `start` and `end` are shares of it."""

    origin: ClassVar[str] = "prune/once_for_all"

    @property
    def course(self) -> Course:
        """Sparsify, then finetune the pattern: the budget twice."""
        return Course(trainings=2)

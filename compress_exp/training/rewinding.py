"""Going back to the weights of an early step at the end of every round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from compress_exp.methods.base import Method
from compress_exp.methods.context import Context, Work
from compress_exp.methods.course import Course
from compress_exp.methods.parametrized import trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Rewinding:
    """The weights of one step, kept for the rounds that go back to them.

    Args:
        course: of the stage.
        steps: optimiser steps of one training.

    Attributes:
        early: the weights by name; empty before the step that they are of.
    """

    def __init__(self, course: Course, steps: int) -> None:
        self.course, self.steps = course, steps
        self.early: dict[str, Tensor] = {}

    def keep(self, model: PreTrainedModel, step: int) -> None:
        """Before the step of that number."""
        if self.course.rewind is not None and step == int(self.course.rewind * self.steps):
            self.early = {name: weight.detach().clone() for name, weight in trained(model).items()}

    @torch.no_grad()
    def go_back(
        self, model: PreTrainedModel, context: Context, methods: Sequence[Method], optimizer: Optimizer, done: int
    ) -> None:
        """After so many steps: at the end of a round that is to be rewound, cut and go back."""
        if (cuts := self.course.cuts(done, self.steps)) is None:
            return
        work = Work(model, context, cuts / self.course.rounds, done)
        for method in methods:
            method.step(work)
        for name, weight in trained(model).items():
            weight.copy_(self.early[name])
        for method in methods:
            method.rewound(work)
        optimizer.state.clear()

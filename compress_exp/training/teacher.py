"""Teachers: what the losses of a stage are shown beside the student, at the student's positions.

A teacher owns what it reads of an example. One with the student's tokens reads the student's batch; one with tokens of
its own reads its own features of the same examples, which the batch names by number (`models.forward.FEATURES`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from compress_exp.models.forward import FEATURES, forward_outputs
from compress_exp.tasks.base import Task
from compress_exp.tasks.files import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Teacher(Protocol):
    """What a stage learns from, beside the labels.

    Attributes:
        model: what criteria measure their parameters by; None where no single model answers.
    """

    @property
    def model(self) -> PreTrainedModel | None:
        """See above."""

    def to(self, device: torch.device) -> None:
        """Move what computes to a device."""

    def outputs(self, batch: dict[str, Tensor], needs: Collection[str]) -> dict[str, Any]:
        """What the losses need, aligned with the student's outputs of the same batch.

        Args:
            batch: the student's, with the numbers of its features.
            needs: names of the family's `captures`; "logits", (positions, classes), is given always.
        """


class SameTokens:
    """A model that reads the student's own batch: anything may be asked of it.

    Args:
        model: it is frozen.
        task: says which positions count.
    """

    def __init__(self, model: PreTrainedModel, task: Task) -> None:
        self.model, self.task = model.eval().requires_grad_(False), task

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)

    def outputs(self, batch: dict[str, Tensor], needs: Collection[str]) -> dict[str, Any]:
        """Of the student's batch."""
        return task_outputs(self.model, self.task, batch, needs)[0]


class OwnTokens:
    """A model with a tokenizer of its own, for tasks whose rows have one answer each: it gives logits only.

    Args:
        model: it is frozen.
        task: one whose `classes_by_row` is true.
        tokenizer: the model's.
        features: the model's, of the same examples in the same order as the student's.
    """

    def __init__(
        self, model: PreTrainedModel, task: Task, tokenizer: PreTrainedTokenizerBase, features: Sequence[Row]
    ) -> None:
        self.model, self.task = model.eval().requires_grad_(False), task
        self.tokenizer, self.features = tokenizer, features

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)

    def outputs(self, batch: dict[str, Tensor], needs: Collection[str]) -> dict[str, Any]:
        """The logits of the batch's examples, (rows, classes)."""
        own = self.task.collate([self.features[number] for number in batch[FEATURES].tolist()], self.tokenizer)
        moved = {name: tensor.to(self.model.device) for name, tensor in own.items()}
        return {"logits": task_outputs(self.model, self.task, moved, ())[0]["logits"]}


class Ensemble:
    """Several teachers: the arithmetic mean of their distributions (Hinton et al. 2015, arXiv:1503.02531, section 1).

    Probabilities are averaged at temperature 1 and handed on as logits, log p̄, so that a loss's own temperature acts
    on the mean; for regression, numbers are averaged. Hidden states and attention have no mean.

    Args:
        members: two or more, with the same classes.
    """

    model = None

    def __init__(self, members: Sequence[Teacher]) -> None:
        self.members = members

    def to(self, device: torch.device) -> None:
        """Move all of them."""
        for member in self.members:
            member.to(device)

    def outputs(self, batch: dict[str, Tensor], needs: Collection[str]) -> dict[str, Any]:
        """The logits of the mean."""
        return {"logits": mean_logits([member.outputs(batch, ())["logits"] for member in self.members])}


def mean_logits(
    logits: Sequence[Tensor],  # each (positions, classes)
) -> Tensor:  # (positions, classes)
    """log of the mean of several softmax distributions, in float32; the mean itself of single numbers."""
    together = torch.stack([each.float() for each in logits])
    if together.shape[-1] == 1:
        return together.mean(0)
    return together.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def task_outputs(
    model: PreTrainedModel, task: Task, batch: dict[str, Tensor], needs: Collection[str]
) -> tuple[dict[str, Any], Tensor]:
    """What is needed of a model, its logits (positions, classes) where the task counts, and the labels there."""
    outputs = forward_outputs(model, batch, {*task.outputs, *set(needs) - {"logits"}})
    logits, labels = task.targets(outputs, batch)
    return outputs | {"logits": logits}, labels

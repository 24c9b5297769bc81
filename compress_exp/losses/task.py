"""The task's own loss on hard labels: cross-entropy, or mean squared error for regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional

from compress_exp.losses.base import Criterion, Loss, Outputs, Term

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def hard_loss(
    logits: Tensor,  # (positions, classes), or (positions, 1) for regression
    labels: Tensor,  # (positions,)
) -> Tensor:  # ()
    """Cross-entropy of integer labels, squared error of float ones, in float32, summed over positions."""
    if labels.is_floating_point():
        return functional.mse_loss(logits.float().squeeze(-1), labels, reduction="sum")
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


class HardLabels(Criterion):
    """One term, `hard`."""

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor) -> dict[str, Term]:
        """The student's logits beside the labels."""
        return {"hard": Term(hard_loss(student["logits"], labels), len(labels))}


@dataclass(frozen=True, kw_only=True)
class TaskLoss(Loss):
    """Hard labels only."""

    origin: ClassVar[str] = "task"

    @property
    def uses_labels(self) -> bool:
        """At nothing else."""
        return True

    def criterion(self, student: PreTrainedModel, teacher: PreTrainedModel | None) -> Criterion:
        """It has no state."""
        return HardLabels()

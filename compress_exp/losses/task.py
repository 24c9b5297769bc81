"""The task's own loss on hard labels: cross-entropy, or mean squared error for regression."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from compress_exp.losses.base import Loss


def hard_loss(
    logits: Tensor,  # (positions, classes), or (positions, 1) for regression
    labels: Tensor,  # (positions,)
) -> Tensor:  # ()
    """Cross-entropy of integer labels, mean squared error of float ones, in float32."""
    if labels.is_floating_point():
        return functional.mse_loss(logits.float().squeeze(-1), labels)
    return functional.cross_entropy(logits.float(), labels)


class TaskLoss(Loss):
    """Hard labels only."""

    origin: ClassVar[str] = "task"

    def forward(self, student: dict[str, Tensor], teacher: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """One term, `hard`."""
        return {"hard": hard_loss(student["logits"], labels)}

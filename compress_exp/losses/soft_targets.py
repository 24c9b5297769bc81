"""Soft targets of a teacher (Hinton et al. 2015, arXiv:1503.02531).

L = w_hard · CE(z, y) + w_soft · T² · KL(softmax(v / T) ‖ softmax(z / T)), z the student's and v the teacher's logits.
T² keeps the gradient's size when T changes. For regression the soft term is the mean squared error to the teacher's
output. Language models and sequence-to-sequence models use it at every valid position.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from compress_exp.config.checks import check_number
from compress_exp.losses.base import Loss
from compress_exp.losses.task import hard_loss


def soft_loss(
    student: Tensor,  # (positions, classes)
    teacher: Tensor,  # (positions, classes)
    temperature: float,
) -> Tensor:  # ()
    """T² · KL(teacher ‖ student) at temperature T, in float32, mean over positions."""
    log_student = functional.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher.float() / temperature, dim=-1)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


class SoftTargets(Loss):
    """Hard labels and the teacher's distribution.

    Args:
        temperature: T, above 0.
        weight_hard: weight of the hard labels' term.
        weight_soft: weight of the teacher's term.
    """

    origin: ClassVar[str] = "soft_targets"
    uses_teacher: ClassVar[bool] = True

    def __init__(self, temperature: float = 2.0, weight_hard: float = 0.5, weight_soft: float = 0.5) -> None:
        super().__init__()
        check_number("temperature", temperature, 1e-3, 1e3)
        check_number("weight_hard", weight_hard, 0)
        check_number("weight_soft", weight_soft, 0)
        self.temperature, self.weight_hard, self.weight_soft = temperature, weight_hard, weight_soft

    def forward(self, student: dict[str, Tensor], teacher: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Two terms, `hard` and `soft`."""
        own, other = student["logits"], teacher["logits"]
        if labels.is_floating_point():
            soft = functional.mse_loss(own.float(), other.float())
        else:
            soft = soft_loss(own, other, self.temperature)
        return {"hard": self.weight_hard * hard_loss(own, labels), "soft": self.weight_soft * soft}

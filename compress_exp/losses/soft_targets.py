"""Soft targets of a teacher (Hinton et al. 2015, arXiv:1503.02531).

L = w_hard · CE(z, y) + w_soft · T² · KL(softmax(v / T) ‖ softmax(z / T)), z the student's and v the teacher's logits.
T² keeps the gradient's size when T changes. For regression the soft term is the mean squared error to the teacher's
output. Language models and sequence-to-sequence models use it at every valid position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional

from compress_exp.config.checks import check_number
from compress_exp.losses.base import Criterion, Loss, Outputs, Term
from compress_exp.losses.task import hard_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def soft_loss(
    student: Tensor,  # (positions, classes)
    teacher: Tensor,  # (positions, classes)
    temperature: float,
) -> Tensor:  # ()
    """T² · KL(teacher ‖ student) at temperature T, in float32, summed over positions."""
    log_student = functional.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher.float() / temperature, dim=-1)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)


class HardAndSoft(Criterion):
    """Two terms, `hard` and `soft`.

    Args:
        settings: temperature and weights.
    """

    def __init__(self, settings: SoftTargets) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor) -> dict[str, Term]:
        """The student's logits beside the labels and beside the teacher's logits."""
        own, other, settings = student["logits"], teacher["logits"], self.settings
        if labels.is_floating_point():
            soft = functional.mse_loss(own.float(), other.float(), reduction="sum")
        else:
            soft = soft_loss(own, other, settings.temperature)
        count = len(labels)
        return {
            "hard": Term(settings.weight_hard * hard_loss(own, labels), count),
            "soft": Term(settings.weight_soft * soft, count),
        }


@dataclass(frozen=True, kw_only=True)
class SoftTargets(Loss):
    """Hard labels and the teacher's distribution.

    Attributes:
        temperature: T, above 0.
        weight_hard: weight of the hard labels' term.
        weight_soft: weight of the teacher's term.
    """

    temperature: float = 2.0
    weight_hard: float = 0.5
    weight_soft: float = 0.5

    origin: ClassVar[str] = "soft_targets"
    uses_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("temperature", self.temperature, 1e-3, 1e3)
        check_number("weight_hard", self.weight_hard, 0)
        check_number("weight_soft", self.weight_soft, 0)

    @property
    def uses_labels(self) -> bool:
        """Where they have a weight."""
        return self.weight_hard > 0

    def criterion(self, student: PreTrainedModel, teacher: PreTrainedModel | None) -> Criterion:
        """It has no parameters."""
        return HardAndSoft(self)

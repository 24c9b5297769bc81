"""What training inside a stage minimises: settings that are checked in the plan, and a criterion built for a stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from compress_exp.config.checks import FieldError, check_number, nearest
from compress_exp.config.identity import later, origin, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress_exp.methods.base import Facts

Outputs = Mapping[str, Any]
"""What was captured of a forward pass, by name, see `models.forward.forward_outputs`."""


@dataclass(frozen=True)
class Term:
    """A sum and what it is over: the step alone divides, by the count over all processes.

    Attributes:
        total: the sum, ().
        count: how many positions, rows or values it is over.
    """

    total: Tensor
    count: int


class Criterion(nn.Module, ABC):
    """A loss at work: its parameters, if it has any, are trained and checkpointed with the stage and then dropped."""

    @abstractmethod
    def forward(
        self,
        student: Outputs,  # "logits": (positions, classes)
        teacher: Outputs,  # the same, empty without a teacher
        labels: Tensor,  # (positions,), integers, or floats for regression
    ) -> dict[str, Term]:
        """The named terms; the sum of their means is minimised."""


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """One loss of a stage; those of a stage add up.

    Attributes:
        weight: of all its terms.
        origin: its pinned name in keys.
        needs: what a forward pass has to give: "logits", or names of the family's `captures`.
        uses_teacher: whether a teacher has to run.
        version: raised when the same settings come to give another value.
    """

    weight: float = later(1.0, before=1.0)

    origin: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    uses_teacher: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_number("weight", self.weight, 0)

    @property
    def uses_labels(self) -> bool:
        """Whether it looks at hard labels."""
        return False

    def check(self, facts: Facts, teacher: Facts) -> None:
        """Refuse, in one sentence and before anything is built, models that do not give what it needs.

        Args:
            facts: of the model in training; None there is not known yet.
            teacher: of the teacher.

        Raises:
            FieldError: naming a setting, or with an empty name.
        """
        asked = {"student": facts} | ({"teacher": teacher} if self.uses_teacher else {})
        for who, known in asked.items():
            given = {"logits"} | known.family.captures
            if missing := sorted(self.needs - given):
                # Names with a stack would make a long list.
                bare = sorted(name for name in given if name.partition(".")[0] not in known.layers)
                told = f"it needs {missing[0]!r} of the {who}, whose family does not give it"
                raise FieldError("", f"{told}; {nearest(missing[0], bare)}")

    @abstractmethod
    def criterion(self, student: PreTrainedModel, teacher: PreTrainedModel | None) -> Criterion:
        """The loss for two models; what it draws at random was seeded before.

        The teacher is None where none is asked, and where only its logits are there: several teachers, kept answers.
        """

    def identity(self) -> dict[str, Any]:
        """What decides its value, for the key of the artifact."""
        return origin(type(self)) | settings(self)

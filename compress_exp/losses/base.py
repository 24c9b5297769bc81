"""What training inside a stage minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from compress_exp.config.identity import origin


class Loss(nn.Module, ABC):
    """A sum of named terms, each a mean over valid positions.

    Attributes:
        needs: what is captured of student and teacher.
        uses_teacher: whether a teacher has to run.
        version: part of the key; raised when its numbers change.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    uses_teacher: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @abstractmethod
    def forward(
        self,
        student: dict[str, Tensor],  # "logits": (positions, classes)
        teacher: dict[str, Tensor],  # the same, empty without a teacher
        labels: Tensor,  # (positions,), integers, or floats for regression
    ) -> dict[str, Tensor]:
        """The named terms; their sum is minimised."""

    def identity(self) -> dict[str, Any]:
        """What decides its value, for the key of the artifact."""
        public = {name: value for name, value in vars(self).items() if name != "training" and name[0] != "_"}
        return origin(type(self)) | public

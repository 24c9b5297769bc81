"""Hidden states of a teacher: the hints of FitNets (Romero et al. 2014, arXiv:1412.6550), as TinyBERT uses them.

L = 1/L · Σ_m MSE(H^S_m W, H^T_{g(m)}), TinyBERT's equation 8 (Jiao et al. 2019, arXiv:1909.10351), over valid tokens.
The student's layer m of M looks at the teacher's layer g(m) = round(m · N / M) of N, the embeddings' output (m = 0)
among them. W is a learned projection, one for all layers of a stack, where the widths differ; it is dropped after
training. Deviation: TinyBERT sums over the layers; here it is their mean, so that `weight` knows no depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from compress_exp.config.checks import check_choice
from compress_exp.losses.base import Criterion, Loss, Outputs, Term
from compress_exp.models.families.base import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYERS = ("all", "last")


def layer_map(student: int, teacher: int) -> list[tuple[int, int]]:
    """Pairs of a student's and a teacher's layer, given how many each has; 0 is the embeddings' output."""
    return [(m, round(m * teacher / student)) for m in range(student + 1)]


def hidden_loss(
    student: Tensor,  # (batch, length, width)
    teacher: Tensor,  # (batch, length, width)
    valid: Tensor,  # bool (batch, length)
) -> Tensor:  # ()
    """Squared differences, their mean over the width summed over valid tokens, in float32."""
    squares = (student.float() - teacher.float()).square().mean(-1)
    return (squares * valid).sum()


class SameStates(Criterion):
    """One term, `states`.

    Args:
        width: of the student's hidden states.
        target: of the teacher's.
        stacks: names of the stacks, "encoder" and "decoder".
        layers: "all" or "last".
    """

    def __init__(self, width: int, target: int, stacks: Sequence[str], layers: str) -> None:
        super().__init__()
        self.layers = layers
        made = {name: nn.Linear(width, target, bias=False) for name in stacks} if width != target else {}
        self.projections = nn.ModuleDict(made)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor) -> dict[str, Term]:
        """Layer by layer, stack by stack."""
        total, count = labels.new_zeros((), dtype=torch.float32), 0
        for stack, own in student["hidden"].items():
            other, valid = teacher["hidden"][stack], student["valid"][stack]
            pairs = layer_map(len(own) - 1, len(other) - 1)
            pairs = pairs if self.layers == "all" else pairs[-1:]
            for m, n in pairs:
                states = self.projections[stack](own[m]) if stack in self.projections else own[m]
                total = total + hidden_loss(states, other[n], valid)
            count += len(pairs) * int(valid.sum())
        return {"states": Term(total, count)}


@dataclass(frozen=True, kw_only=True)
class HiddenStates(Loss):
    """The teacher's hidden states at every valid token.

    Attributes:
        layers: "all" maps the student's layers evenly onto the teacher's, "last" takes the last ones only.
    """

    layers: str = "all"

    origin: ClassVar[str] = "hidden"
    needs: ClassVar[frozenset[str]] = frozenset({"hidden"})
    uses_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("layers", self.layers, LAYERS)

    def criterion(self, student: PreTrainedModel, teacher: PreTrainedModel | None) -> Criterion:
        """Projections where the widths differ."""
        assert teacher is not None
        stacks = [stack.name for stack in family_of(student.config.model_type).stacks]
        return SameStates(student.config.hidden_size, teacher.config.hidden_size, stacks, self.layers)

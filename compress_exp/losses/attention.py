"""Attention of a teacher, TinyBERT's equation 7 (Jiao et al. 2019, arXiv:1909.10351).

L = 1/L · Σ_m 1/h · Σ_i MSE(A^S_{m,i}, A^T_{g(m),i}), A the unnormalised scores of head i, before mask and softmax. The
student's layer m of M looks at the teacher's layer g(m) = round(m · N / M) of N, in the self-attention of every stack.
Both need equally many heads. Deviations: TinyBERT sums over the layers, here it is their mean, so that `weight` knows
no depth; and the MSE is over pairs of valid tokens that attention may look at, not over padding set to zero.
Cost: attention that keeps its scores, (batch, heads, length, length) a layer, in student and teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from compress_exp.config.checks import FieldError, UserError
from compress_exp.losses.base import Criterion, Loss, Outputs, Term
from compress_exp.losses.hidden import layer_map

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress_exp.methods.base import Facts

SCORES = "attention_scores"


def attention_loss(
    student: Tensor,  # (batch, heads, length, length)
    teacher: Tensor,  # (batch, heads, length, length)
    pairs: Tensor,  # bool (batch, length, length)
) -> Tensor:  # ()
    """Squared differences, their mean over heads summed over the pairs of tokens that count, in float32."""
    squares = (student.float() - teacher.float()).square().mean(1)
    return (squares * pairs).sum()


def valid_pairs(
    valid: Tensor,  # bool (batch, length)
    causal: bool,
) -> Tensor:  # bool (batch, length, length)
    """Which token (rows) looks at which (columns), neither of them padding."""
    pairs = valid[:, :, None] & valid[:, None, :]
    return pairs.tril() if causal else pairs


class SameAttention(Criterion):
    """One term, `attention`; it has no parameters."""

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor) -> dict[str, Term]:
        """Layer by layer, stack by stack.

        Raises:
            UserError: numbers of heads differ.
        """
        total, count = labels.new_zeros((), dtype=torch.float32), 0
        for stack, own in student[SCORES].items():
            other, pairs = teacher[SCORES][stack], valid_pairs(student["valid"][stack], stack == "decoder")
            layers = layer_map(len(own), len(other))[1:]
            for m, n in layers:
                heads = own[m - 1].shape[1], other[n - 1].shape[1]
                if heads[0] != heads[1]:
                    raise UserError(
                        f"loss: {differing(stack, *heads)} in layer {m} and {n}; "
                        "leave the attention loss out, or remove no heads"
                    )
                total = total + attention_loss(own[m - 1], other[n - 1], pairs)
            count += len(layers) * int(pairs.sum())
        return {"attention": Term(total, count)}


@dataclass(frozen=True, kw_only=True)
class AttentionScores(Loss):
    """The teacher's attention at every pair of valid tokens."""

    origin: ClassVar[str] = "attention"
    needs: ClassVar[frozenset[str]] = frozenset({SCORES})
    uses_teacher: ClassVar[bool] = True

    def check(self, facts: Facts, teacher: Facts) -> None:
        """Equally many heads, where they are known before anything is built."""
        super().check(facts, teacher)
        if facts.heads is None or teacher.heads is None:
            return
        for stack, heads in facts.heads.items():
            own, other = heads * facts.queries, teacher.heads[stack] * teacher.queries
            if own != other:
                raise FieldError("", f"{differing(stack, own, other)}; take a student or a teacher with as many heads")

    def criterion(self, student: PreTrainedModel, teacher: PreTrainedModel | None) -> Criterion:
        """It has no state."""
        return SameAttention()


def differing(stack: str, student: int, teacher: int) -> str:
    """What is wrong, as a sentence begins."""
    return f"the student's {stack} has {student} attention heads and the teacher's {teacher}"

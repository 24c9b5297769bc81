"""Weights in bfloat16: two bytes each, no training, no loss that a metric would see; what int8 has to beat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compress_exp.layers.bf16 import rounded
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.context import Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class BFloat16(Method):
    """Round every parameter to bfloat16; the runtime computes in bfloat16 too."""

    origin: ClassVar[str] = "quant/bf16"
    packs: ClassVar[bool] = True

    def check(self, facts: Facts) -> Facts:
        """What follows computes in float32 and is rounded again in the end."""
        return replace(super().check(facts), packed=facts.packed, rounded=self.name)

    def convert(self, work: Work) -> PreTrainedModel:
        """Round."""
        return rounded(work.model)

"""Weights in bfloat16: two bytes each, no training, no loss that a metric would see; what int8 has to beat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from compress_exp.methods.base import Facts, Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class BFloat16(Method):
    """Round every parameter to bfloat16; the runtime computes in bfloat16 too."""

    origin: ClassVar[str] = "quant/bf16"

    def check(self, facts: Facts) -> Facts:
        """Rounded weights take no further training."""
        return replace(super().check(facts), packed=self.name)

    def convert(self, model: PreTrainedModel) -> PreTrainedModel:
        """Round what is stored; frequencies of rotary positions are computed anew wherever the model is loaded."""
        stored = model.state_dict().keys()
        computed = {name: buffer for name, buffer in model.named_buffers() if name not in stored}
        model = model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
        for name, buffer in computed.items():
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, buffer)
        return model

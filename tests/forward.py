"""What most tests ask of a model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from compress_exp.models.forward import forward_outputs


def forward_logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The logits of a batch."""
    logits: Tensor = forward_outputs(model, batch, ("logits",))["logits"]
    return logits

"""One forward pass of any kind of model on a batch of any kind of task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def forward_logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """The model's logits; a decoder of an encoder-decoder is fed the labels, shifted.

    Args:
        model: an encoder with a head, a decoder or an encoder-decoder.
        batch: `input_ids`, `attention_mask` (batch, length), `labels`, and what else the tokenizer gives.

    Returns:
        (batch, classes) or (batch, length, vocabulary), as the architecture gives them.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if model.config.is_encoder_decoder:
        shift: Callable[[Tensor], Tensor] = model.prepare_decoder_input_ids_from_labels  # type: ignore[assignment]
        inputs["decoder_input_ids"] = shift(batch["labels"])
        return model(**inputs, use_cache=False).logits
    if model.can_generate():
        return model(**inputs, use_cache=False).logits
    return model(**inputs).logits

"""One forward pass of any kind of model on a batch of any kind of task."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from torch import Tensor

from compress_exp.models.capture import capture
from compress_exp.models.families.base import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS = "logits"
IGNORED = -100


def forward_logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """The model's logits, as `forward_outputs` gives them."""
    logits: Tensor = forward_outputs(model, batch, (LOGITS,))[LOGITS]
    return logits


def forward_outputs(model: PreTrainedModel, batch: dict[str, Tensor], needs: Collection[str]) -> dict[str, Any]:
    """What losses ask for of one forward pass; a decoder of an encoder-decoder is fed the labels, shifted.

    Args:
        model: an encoder with a head, a decoder or an encoder-decoder.
        batch: `input_ids`, `attention_mask` (batch, length), `labels`, and what else the tokenizer gives.
        needs: "logits" and names of the family's `captures`.

    Returns:
        "logits": (batch, classes) or (batch, length, vocabulary), as the architecture gives them. Where "hidden" is
        asked for, "hidden": by stack ("encoder", "decoder") the output of the embeddings and of every layer, (batch,
        length, width). What attention computes is told in `capture`. Where anything but logits is asked for, "valid":
        by stack which tokens count, bool (batch, length).
    """
    inputs: dict[str, Any] = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if model.config.is_encoder_decoder:
        shift: Callable[[Tensor], Tensor] = model.prepare_decoder_input_ids_from_labels  # type: ignore[assignment]
        inputs["decoder_input_ids"] = shift(batch["labels"])
    if model.can_generate():
        inputs["use_cache"] = False
    inner = set(needs) - {LOGITS}
    if not inner:
        return {LOGITS: model(**inputs).logits}
    family = family_of(model.config.model_type)
    hidden = {"output_hidden_states": True} if "hidden" in inner else {}
    attention = inner - {"hidden"}
    if attention:
        with capture(model, family, attention) as found:
            outputs = model(**inputs, **hidden)
    else:
        found, outputs = {}, model(**inputs, **hidden)
    names = [stack.name for stack in family.stacks]
    read = batch["attention_mask"].bool()
    found["valid"] = dict.fromkeys(names, read)
    if len(names) > 1:
        found["valid"]["decoder"] = batch["labels"] != IGNORED
    if hidden and len(names) > 1:
        found["hidden"] = {name: outputs[f"{name}_hidden_states"] for name in names}
    elif hidden:
        found["hidden"] = {names[0]: outputs.hidden_states}
    return found | {LOGITS: outputs.logits}

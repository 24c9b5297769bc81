"""One forward pass of any kind of model on a batch of any kind of task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CAPTURES = frozenset({"logits", "hidden"})
"""What losses may ask for: what a task makes of a model's outputs, and what `forward_outputs` captures."""
LABELS = "labels"
"""What the names of a batch's labels begin with; a model is shown everything else."""
IGNORED = -100


def forward_outputs(model: PreTrainedModel, batch: dict[str, Tensor], needs: Collection[str]) -> dict[str, Any]:
    """What losses ask for of one forward pass; a decoder of an encoder-decoder is fed the labels, shifted.

    Args:
        model: an encoder with a head, a decoder or an encoder-decoder.
        batch: `input_ids`, `attention_mask` (batch, length), labels, and what else the tokenizer gives.
        needs: names of outputs of the model, such as "logits" or "start_logits", and "hidden"; none to run it only.

    Returns:
        The outputs as the architecture gives them: "logits" are (batch, classes) or (batch, length, vocabulary),
        "start_logits" (batch, length). Where "hidden" is asked for, "hidden": by stack ("encoder", "decoder") the
        output of the embeddings and of every layer, (batch, length, width), and "valid": by stack which tokens count,
        bool (batch, length).
    """
    inputs: dict[str, Any] = {name: tensor for name, tensor in batch.items() if not name.startswith(LABELS)}
    if model.config.is_encoder_decoder:
        shift: Callable[[Tensor], Tensor] = model.prepare_decoder_input_ids_from_labels  # type: ignore[assignment]
        inputs["decoder_input_ids"] = shift(batch["labels"])
    if model.can_generate():
        inputs["use_cache"] = False
    if "hidden" not in needs:
        outputs = model(**inputs)
        return {name: outputs[name] for name in needs}
    outputs = model(**inputs, output_hidden_states=True)
    read = batch["attention_mask"].bool()
    if model.config.is_encoder_decoder:
        hidden = {"encoder": outputs.encoder_hidden_states, "decoder": outputs.decoder_hidden_states}
        valid = {"encoder": read, "decoder": batch["labels"] != IGNORED}
    else:
        stack = only_stack(model)
        hidden, valid = {stack: outputs.hidden_states}, {stack: read}
    named = {name: outputs[name] for name in needs if name != "hidden"}
    return named | {"hidden": hidden, "valid": valid}


def tensors(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those of a model's outputs that are tensors: what its head says, and not what it keeps for the next call."""
    return {name: value for name, value in outputs.items() if isinstance(value, Tensor)}


def only_stack(model: PreTrainedModel) -> str:
    """The name of the one stack of a model that is no encoder-decoder."""
    return "decoder" if model.can_generate() else "encoder"

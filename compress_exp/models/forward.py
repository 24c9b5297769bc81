"""One forward pass of any kind of model on a batch of any kind of task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from compress_exp.models.capture import capture
from compress_exp.models.families.base import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS = "logits"
"""What the names of a head's outputs end with; everything else that is asked for is captured on the way to it."""
LABELS = "labels"
"""What the names of a batch's labels begin with; no model is shown them."""
FEATURES = "features"
"""A batch's entry with the numbers of its features, int64 (rows,); no model is shown it."""
IGNORED = -100


def forward_outputs(model: PreTrainedModel, batch: dict[str, Tensor], needs: Collection[str]) -> dict[str, Any]:
    """What losses ask for of one forward pass; a decoder of an encoder-decoder is fed the labels, shifted.

    Args:
        model: an encoder with a head, a decoder or an encoder-decoder.
        batch: `input_ids`, `attention_mask` (batch, length), labels, and what else the tokenizer gives; the numbers of
            its features are passed over.
        needs: names of outputs of the model, such as "logits" or "start_logits", and of the family's `captures`; none
            to run it only.

    Returns:
        The outputs as the architecture gives them: "logits" are (batch, classes) or (batch, length, vocabulary),
        "start_logits" (batch, length). Where "hidden" is asked for, "hidden": by stack ("encoder", "decoder") the
        output of the embeddings and of every layer, (batch, length, width). What attention computes is told in
        `capture`. Where anything but outputs is asked for, "valid": by stack which tokens count, bool (batch, length).
    """
    inputs: dict[str, Any] = {
        name: tensor for name, tensor in batch.items() if not name.startswith(LABELS) and name != FEATURES
    }
    if model.config.is_encoder_decoder:
        shift: Callable[[Tensor], Tensor] = model.prepare_decoder_input_ids_from_labels  # type: ignore[assignment]
        inputs["decoder_input_ids"] = shift(batch["labels"])
    if model.can_generate():
        inputs["use_cache"] = False
    inner = {name for name in needs if not name.endswith(LOGITS)}
    if not inner:
        outputs = model(**inputs)
        return {name: outputs[name] for name in needs}
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
    return found | {name: outputs[name] for name in needs if name not in inner}


def tensors(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those of a model's outputs that are tensors: what its head says, and not what it keeps for the next call."""
    return {name: value for name, value in outputs.items() if isinstance(value, Tensor)}

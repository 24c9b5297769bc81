"""Models with random biases, and what masking a unit to zero means, for tests of removed heads and neurons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from compress_exp.layers.slices import Slice
from tests.conftest import ARCHITECTURES, VOCABULARY, build_model
from tests.forward import forward_logits

FAMILIES = (*ARCHITECTURES, "t5_gated")


def build(name: str) -> Any:
    """A seeded model whose vectors (biases, norms) are random too; `t5_gated` is T5 v1.1's feed-forward part."""
    if name == "t5_gated":
        torch.manual_seed(0)
        config = T5Config(vocab_size=VOCABULARY, feed_forward_proj="gated-gelu", **ARCHITECTURES["t5"])
        model = T5ForConditionalGeneration(config).eval()
    else:
        model = build_model(name)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def family_name(name: str) -> str:
    """The model type of a name that `build` takes."""
    return name.removesuffix("_gated")


def masked_logits(model: Any, batch: dict[str, Tensor], parts: list[tuple[Slice, list[int]]]) -> Tensor:
    """Logits while what leaves each part but its kept units is multiplied by zero."""
    handles = []
    for part, kept in parts:
        gate = torch.zeros(part.count)
        gate[kept] = 1

        def hook(module: Any, inputs: Any, gate: Tensor = gate) -> Any:
            return (inputs[0] * gate.repeat_interleave(inputs[0].shape[-1] // len(gate)),)

        handles.append(part.output.register_forward_pre_hook(hook))
    with torch.no_grad():
        logits = forward_logits(model, batch)
    for handle in handles:
        handle.remove()
    return logits


def some(parts: list[Any]) -> list[tuple[Any, list[int]]]:
    """Different units for each part: one, the other, or both heads; different numbers of neurons."""
    kept = []
    for index, part in enumerate(parts):
        choices = [[1], [0], [0, 1]] if part.count == 2 else [list(range(5, 29)), list(range(0, part.count, 2))]
        kept.append((part, choices[index % len(choices)]))
    return kept


def shrink(model: Any, parts: list[tuple[Any, list[int]]]) -> None:
    """Remove all but the kept units."""
    for part, kept in parts:
        if len(kept) < part.count:
            part.keep(model, kept)


def generated(model: Any, batch: dict[str, Tensor], use_cache: bool) -> Tensor:
    """The logits of twelve generated tokens: (tokens, rows, vocabulary)."""
    inputs = {key: batch[key][:, :6] for key in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "no_repeat_ngram_size": 1}
    answer = model.generate(**inputs, **settings, use_cache=use_cache, output_logits=True, return_dict_in_generate=True)
    return torch.stack(answer.logits)

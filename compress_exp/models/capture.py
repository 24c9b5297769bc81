"""What attention computes inside a forward pass: queries, keys, values, scores and probabilities, in call order.

Families on transformers' attention interface get an eager attention that tells what it computes, with the mask that
belongs to it: without a mask function of the same name GPT-2 would lose causality and BERT its padding. It is set while
`capture` is open and no longer, so that nothing of it reaches config.json. Other families bring hooks of their own
(`Family.observe`), or name less in `Family.attention`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress_exp.config.checks import UserError
from compress_exp.models.families.base import Family, Tell, attention_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMPLEMENTATION = "compress_exp_capture"
TELL = "compress_exp_tell"

Captured = dict[str, Any]
"""By name: of "query" or "cross.key" a list by stack, of "decoder.cross.key" the list itself."""


@contextmanager
def capture(model: PreTrainedModel, family: Family, needs: Collection[str]) -> Iterator[Captured]:
    """Gather tensors of the attention modules during the forward passes inside; gradients flow through them.

    Args:
        model: nothing of it is changed afterwards.
        family: of its architecture.
        needs: names of `Family.captures` but "hidden".

    Yields:
        Lists that fill in call order, one tensor a layer and forward pass: "query" (batch, heads, length, width), "key"
        and "value" the same with key-value heads, as attention reads them; "attention_scores" (batch, heads, queries,
        keys), scaled, with a bias of relative positions, before mask and dropout; "attention_probs" after the mask and
        before dropout. A name with a stack gives its list, one without gives the lists by stack.

    Raises:
        UserError: nothing came, so that a loss would be made of nothing.
    """
    lists: dict[tuple[str, str], list[Tensor]] = {}
    found: Captured = {}
    for name in needs:
        stack, _, what = name.partition(".")
        if any(stack == own.name for own in family.stacks):
            found[name] = lists.setdefault((stack, what), [])
        else:
            found[name] = {own: lists.setdefault((own, name), []) for own in family.captured_stacks(name)}

    def tell_of(stack: str, prefix: str) -> Tell:
        def tell(what: str, tensor: Tensor) -> None:
            if (own := lists.get((stack, prefix + what))) is not None:
                own.append(tensor)

        return tell

    tells = {module: tell_of(stack.name, prefix) for stack, prefix, module in attention_modules(model, family)}
    with (family.observe or _observe)(model, tells):
        yield found
    for (stack, what), tensors in lists.items():
        if not tensors:
            told = f"nothing was captured of {what} in the {stack}"
            raise UserError(f"loss: {told} of {type(model).__name__}; its family may not promise it (Family.attention)")


@contextmanager
def _observe(model: PreTrainedModel, tells: Mapping[nn.Module, Tell]) -> Iterator[None]:
    """Through transformers' interface: attention modules compute with `_attention` for the moment."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)
    # Stacks and attention modules may hold copies of the configuration.
    held: list[Any] = [module.config for module in model.modules() if hasattr(module, "config")]
    configs = {id(config): config for config in held}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = IMPLEMENTATION
        for module, tell in tells.items():
            setattr(module, TELL, tell)
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
        for module in tells:
            if hasattr(module, TELL):
                delattr(module, TELL)


def _unheard(what: str, tensor: Tensor) -> None:
    """For attention modules that the family does not know."""


def _attention(
    module: nn.Module,
    query: Tensor,  # (batch, heads, queries, width)
    key: Tensor,  # (batch, key-value heads, keys, width)
    value: Tensor,  # (batch, key-value heads, keys, width)
    attention_mask: Tensor | None,  # (batch, 1, queries, keys), 0 or very negative
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,  # (1 or batch, heads, queries, keys)
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention as the interface asks for it; the module's `TELL` hears of every step."""
    tell: Tell = getattr(module, TELL, _unheard)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        tell(name, tensor)
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if position_bias is not None:
        scores = scores + position_bias
    tell("attention_scores", scores)
    masked = scores if attention_mask is None else scores + attention_mask
    probs = masked.softmax(-1, dtype=torch.float32).to(value.dtype)
    tell("attention_probs", probs)
    output = nn.functional.dropout(probs, dropout, module.training) @ value
    return output.transpose(1, 2).contiguous(), probs

"""T5's attention with some of its heads: the bias that the first block computes still has a column for each head.

Every block takes the columns of its own heads and hands the whole bias on, so that blocks may keep different heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention

from compress_exp.config.checks import UserError


class SlimT5Attention(T5Attention):
    """A T5Attention with fewer heads.

    Attributes:
        heads: the column of the shared bias that each head takes.
    """

    heads: tuple[int, ...]

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As in T5; the bias that comes in and goes out is that of all heads (of none where all are zero)."""
        if key_value_states is not None:
            # Cross-attention has no bias: zeros of one column suit every number of heads.
            shared = own = None if position_bias is None else position_bias[:, :1]
        else:
            shared = self._bias(hidden_states, past_key_values) if position_bias is None else position_bias
            own = None if shared is None else shared[:, list(self.heads)]
        output, used, weights = super().forward(
            hidden_states,
            mask=mask,
            key_value_states=key_value_states,
            position_bias=own,
            past_key_values=past_key_values,
            **kwargs,
        )
        return output, used[:, :1] if shared is None else shared, weights

    def _bias(self, hidden_states: Tensor, past_key_values: Any) -> Tensor:  # (batch, length, …) -> (1, heads, q, k)
        length, past = hidden_states.shape[1], past_key_values
        seen = 0 if past is None else past.get_seq_length(self.layer_idx)
        keys = length if past is None else past.get_mask_sizes(length, self.layer_idx)[0]
        bias: Tensor = self.compute_bias(length, keys, device=hidden_states.device, past_seen_tokens=seen)
        return bias


def slim(attention: nn.Module, heads: Sequence[int]) -> nn.Module:
    """The same module, on the same projections, as one that has only these of its heads."""
    if not isinstance(attention, T5Attention):
        raise UserError(
            f"family: heads cannot be removed from a {type(attention).__name__}, for shared_bias knows T5's attention "
            "alone; prune neurons or weights instead"
        )
    old = attention.heads if isinstance(attention, SlimT5Attention) else tuple(range(attention.n_heads))
    with torch.device("meta"):
        new = SlimT5Attention(
            attention.config, attention.has_relative_attention_bias, attention.layer_idx, attention.is_causal
        )
    for name, child in attention.named_children():
        setattr(new, name, child)
    new.heads = tuple(old[head] for head in heads)
    return new.train(attention.training)


def whole(attention: nn.Module) -> nn.Module:
    """An ordinary T5Attention of the heads that are left, with a bias of their columns only.

    It computes the same where every block of the stack has the same heads, and the configuration says how many.
    """
    if not isinstance(attention, SlimT5Attention):
        return attention
    with torch.device("meta"):
        new = T5Attention(
            attention.config, attention.has_relative_attention_bias, attention.layer_idx, attention.is_causal
        )
    for name, child in attention.named_children():
        setattr(new, name, child)
    new.n_heads, new.inner_dim = attention.n_heads, attention.inner_dim
    if attention.has_relative_attention_bias:
        table = new.relative_attention_bias
        table.weight = nn.Parameter(table.weight.detach()[:, list(attention.heads)].clone())
        table.embedding_dim = len(attention.heads)
    return new.train(attention.training)

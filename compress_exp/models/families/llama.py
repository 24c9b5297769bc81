"""Llama (Touvron et al. 2023, arXiv:2302.13971): gated feed-forward, rotary positions, heads of queries in groups."""

from compress_exp.models.families.base import Family, Heads, Stack, Text

FAMILY = Family(
    kind="decoder",
    width="hidden_size",
    stacks=(
        Stack(
            name="decoder",
            blocks=r"layers",
            count="num_hidden_layers",
            heads="num_attention_heads",
            neurons="intermediate_size",
            gated=True,
        ),
    ),
    roles={
        "self_attn.q_proj": "query",
        "self_attn.k_proj": "key",
        "self_attn.v_proj": "value",
        "self_attn.o_proj": "attention_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_in",
        "mlp.down_proj": "ffn_out",
    },
    heads=Heads(modules={"": "self_attn"}, width="head_dim", own_width="head_dim", key_values="num_key_value_heads"),
    rotary=True,
    text=Text(special={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}),
)

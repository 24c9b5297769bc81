"""ALBERT (Lan et al. 2020, arXiv:1909.11942): one block that serves every layer."""

from dataclasses import replace

from compress_exp.models.families.base import FRAMED, Family, Heads, Stack

FAMILY = Family(
    kind="encoder",
    width="hidden_size",
    stacks=(
        Stack(
            name="encoder",
            blocks=r"encoder\.albert_layer_groups\.\d+\.albert_layers",
            count="num_hidden_layers",
            heads="num_attention_heads",
            neurons="intermediate_size",
            shared=True,
        ),
    ),
    roles={
        "attention.query": "query",
        "attention.key": "key",
        "attention.value": "value",
        "attention.dense": "attention_output",
        "ffn": "ffn_in",
        "ffn_output": "ffn_out",
    },
    heads=Heads(modules={"": "attention"}, count="num_attention_heads", inner="all_head_size"),
    text=replace(FRAMED, segments=True),
)

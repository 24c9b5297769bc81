"""BERT (Devlin et al. 2019, arXiv:1810.04805)."""

from dataclasses import replace

from compress_exp.models.families.base import FRAMED, Family, Heads, Stack

FAMILY = Family(
    kind="encoder",
    width="hidden_size",
    stacks=(
        Stack(
            name="encoder",
            blocks=r"encoder\.layer",
            count="num_hidden_layers",
            heads="num_attention_heads",
            neurons="intermediate_size",
        ),
    ),
    roles={
        "attention.self.query": "query",
        "attention.self.key": "key",
        "attention.self.value": "value",
        "attention.output.dense": "attention_output",
        "intermediate.dense": "ffn_in",
        "output.dense": "ffn_out",
    },
    heads=Heads(modules={"": "attention.self"}, count="num_attention_heads", inner="all_head_size"),
    text=replace(FRAMED, segments=True),
)

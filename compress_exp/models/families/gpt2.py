"""GPT-2 (Radford et al. 2019): its projections are Conv1D modules, whose weight is in × out."""

from compress_exp.models.families.base import Family, Heads, Stack, Text

FAMILY = Family(
    kind="decoder",
    width="n_embd",
    stacks=(Stack(name="decoder", blocks=r"h", count="n_layer", heads="n_head", neurons="n_inner"),),
    roles={
        "attn.c_attn": "query_key_value",
        "attn.c_proj": "attention_output",
        "mlp.c_fc": "ffn_in",
        "mlp.c_proj": "ffn_out",
    },
    heads=Heads(modules={"": "attn"}, count="num_heads", inner="split_size"),
    text=Text(special={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<pad>"}),
)

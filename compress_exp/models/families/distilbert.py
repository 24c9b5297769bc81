"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108)."""

from compress_exp.models.families.base import Family, Heads, Stack

FAMILY = Family(
    kind="encoder",
    width="dim",
    stacks=(
        Stack(name="encoder", blocks=r"transformer\.layer", count="n_layers", heads="n_heads", neurons="hidden_dim"),
    ),
    roles={
        "attention.q_lin": "query",
        "attention.k_lin": "key",
        "attention.v_lin": "value",
        "attention.out_lin": "attention_output",
        "ffn.lin1": "ffn_in",
        "ffn.lin2": "ffn_out",
    },
    heads=Heads(modules={"": "attention"}, count="n_heads"),
)

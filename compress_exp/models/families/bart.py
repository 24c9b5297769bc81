"""BART (Lewis et al. 2020, arXiv:1910.13461)."""

from compress_exp.models.families.base import Family, Stack


def _attention(layer: str, prefix: str) -> dict[str, str]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "attention_output"}
    return {f"{layer}.{short}": prefix + role for short, role in names.items()}


FAMILY = Family(
    kind="encoder_decoder",
    stacks=(
        Stack(name="encoder", blocks=r"encoder\.layers", count="encoder_layers"),
        Stack(name="decoder", blocks=r"decoder\.layers", count="decoder_layers"),
    ),
    roles=_attention("self_attn", "") | _attention("encoder_attn", "cross.") | {"fc1": "ffn_in", "fc2": "ffn_out"},
)

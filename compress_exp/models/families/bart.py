"""BART (Lewis et al. 2020, arXiv:1910.13461)."""

from compress_exp.models.families.base import Family, Heads, Stack, Text


def _attention(layer: str, prefix: str) -> dict[str, str]:
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "attention_output"}
    return {f"{layer}.{short}": prefix + role for short, role in names.items()}


FAMILY = Family(
    kind="encoder_decoder",
    width="d_model",
    stacks=(
        Stack(
            name="encoder",
            blocks=r"encoder\.layers",
            count="encoder_layers",
            heads="encoder_attention_heads",
            neurons="encoder_ffn_dim",
        ),
        Stack(
            name="decoder",
            blocks=r"decoder\.layers",
            count="decoder_layers",
            heads="decoder_attention_heads",
            neurons="decoder_ffn_dim",
        ),
    ),
    roles=_attention("self_attn", "") | _attention("encoder_attn", "cross.") | {"fc1": "ffn_in", "fc2": "ffn_out"},
    heads=Heads(modules={"": "self_attn", "cross.": "encoder_attn"}, count="num_heads"),
    text=Text(
        special={
            "bos_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "cls_token": "<s>",
            "sep_token": "</s>",
        },
        opens="cls_token",
        closes="sep_token",
    ),
    starts="eos_token",
    ends="eos_token",
)

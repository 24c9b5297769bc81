"""T5 (Raffel et al. 2020, arXiv:1910.10683), v1.0 and v1.1 (gated feed-forward)."""

from compress_exp.models.families.base import Family, Heads, Stack, Text


def _attention(layer: str, prefix: str) -> dict[str, str]:
    names = {"q": "query", "k": "key", "v": "value", "o": "attention_output"}
    return {f"{layer}.{short}": prefix + role for short, role in names.items()}


def _feed_forward(index: int) -> dict[str, str]:
    names = {"wi": "ffn_in", "wi_0": "ffn_gate", "wi_1": "ffn_in", "wo": "ffn_out"}
    return {f"layer.{index}.DenseReluDense.{short}": role for short, role in names.items()}


FAMILY = Family(
    kind="encoder_decoder",
    width="d_model",
    stacks=(
        Stack(name="encoder", blocks=r"encoder\.block", count="num_layers", heads="num_heads", neurons="d_ff"),
        Stack(
            name="decoder",
            blocks=r"decoder\.block",
            count="num_decoder_layers",
            heads="num_heads",
            neurons="d_ff",
        ),
    ),
    roles=_attention("layer.0.SelfAttention", "")
    | _attention("layer.1.EncDecAttention", "cross.")
    | _feed_forward(1)
    | _feed_forward(2),
    heads=Heads(
        modules={"": "layer.0.SelfAttention", "cross.": "layer.1.EncDecAttention"},
        count="n_heads",
        inner="inner_dim",
        own_width="d_kv",
        shared_bias=True,
    ),
    text=Text(special={"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, closes="eos_token"),
    starts="pad_token",
    relative=True,
    prefixed=True,
)

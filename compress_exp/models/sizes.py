"""The sizes that an architecture's settings tell, read without transformers: importing it takes longer than a plan."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from compress_exp.config.checks import FieldError
from compress_exp.models.families.base import Family, width_of

ALIASES = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def told(settings: Mapping[str, Any], family: Family) -> SimpleNamespace | None:
    """The settings as attributes, with `hidden_size` and `num_attention_heads` as transformers calls them.

    Args:
        settings: what config.json or `model.architecture` says.
        family: of the architecture.

    Returns:
        None where a size is left to the default of transformers, or told by another of its names.

    Raises:
        FieldError: a size is no positive whole number, or the heads do not divide the width.
    """
    names = _names(family)
    if any(settings.get(name) is None for name in names) or not settings.keys() & set(ALIASES) <= names:
        return None
    for name in sorted(names):
        value = settings[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FieldError(name, f"{value!r} is not allowed, a whole number of at least 1 is")
    width = settings[family.width]
    for stack in family.stacks:
        if family.heads.own_width is None and width % settings[stack.heads]:
            raise FieldError(stack.heads, f"{settings[stack.heads]} heads do not divide {family.width}={width}")
        if (shared := family.heads.key_values) and settings[stack.heads] % settings[shared]:
            told = f"{settings[shared]} key-value heads do not divide {stack.heads}={settings[stack.heads]}"
            raise FieldError(shared, told)
    alike = {"hidden_size": width, "num_attention_heads": settings[family.stacks[0].heads]}
    return SimpleNamespace(**{**settings, **alike})


def _names(family: Family) -> set[str]:
    """The settings that decide the shapes of a family's matrices."""
    names = {name for stack in family.stacks for name in (stack.count, stack.heads, stack.neurons)}
    optional = (family.heads.own_width, family.heads.key_values)
    return names | {"vocab_size", family.width} | {name for name in optional if name is not None}


def parameter_count(config: Any, family: Family) -> int:
    """About how many parameters the architecture has: its matrices, without biases, norms and heads."""
    hidden = int(config.hidden_size)
    embedded = int(getattr(config, "embedding_size", hidden))
    positions = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 0)
    count = (int(config.vocab_size) + (0 if family.rotary else positions)) * embedded
    own = family.heads.own_width
    queries = family.heads.queries(config)
    for stack in family.stacks:
        inner = int(getattr(config, own)) * int(getattr(config, stack.heads)) if own else hidden
        attentions = 2 if stack.name == "decoder" and len(family.stacks) > 1 else 1
        blocks = 1 if stack.shared else int(getattr(config, stack.count))
        attention = 2 * (inner + inner // queries) * attentions
        count += blocks * hidden * (attention + (3 if stack.gated else 2) * width_of(config, stack))
    return count

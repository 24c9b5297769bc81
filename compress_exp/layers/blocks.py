"""Models with some of their blocks: copies whose remaining weights are equal to the last bit."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress_exp.layers.blueprint import apply, describe, finish
from compress_exp.models.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_layers(model: PreTrainedModel, family: Family, kept: dict[str, Sequence[int]]) -> PreTrainedModel:
    """A copy of the model that has some of its layers, renumbered in the order given.

    What the first block holds for all others (T5's relative bias) stays in the first block, whichever that is. Blocks
    with fewer heads or neurons, and marks of pruned weights, are copied as they are.

    Args:
        model: nothing of it is parametrized.
        family: its architecture.
        kept: layers of each stack; of a shared block only their number matters.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    for stack in family.stacks:
        setattr(config, stack.count, len(kept[stack.name]))
    copied = type(model)(config)
    source = model.state_dict()
    names = (name for name, _ in copied.named_modules())
    blueprint = describe(model).renamed(lambda name: _source(f"{name}.", family, kept).rstrip("."), names)
    apply(copied, blueprint)
    origin = {name: _source(name, family, kept) for name in copied.state_dict()}
    copied.load_state_dict({name: source[old if old in source else name] for name, old in origin.items()})
    finish(copied, blueprint)
    copied.tie_weights()
    if model.can_generate():
        copied.generation_config = copy.deepcopy(model.generation_config)
    return copied


def _source(name: str, family: Family, kept: dict[str, Sequence[int]]) -> str:
    stack = family.stack_of(name)
    if stack is None or stack.shared:
        return name
    return re.sub(
        rf"((?:^|\.){stack.blocks}\.)(\d+)(\.)",
        lambda match: f"{match[1]}{kept[stack.name][int(match[2])]}{match[3]}",
        name,
        count=1,
    )

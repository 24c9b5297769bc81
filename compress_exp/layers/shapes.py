"""Numbers of heads and neurons that an architecture's configuration cannot say: told by name, and restored by name.

What it can say (one feed-forward width for all blocks of a stack; where heads have a width of their own, one number of
heads for all, and the same ones where T5 shares their bias) is written into the configuration instead, so that the
model is an ordinary one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress_exp.layers.heads import attentions
from compress_exp.layers.neurons import feed_forwards
from compress_exp.models.families.base import Family, Stack, head_count, width_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shapes = dict[str, dict[str, Any]]


def uneven(model: PreTrainedModel, family: Family) -> Shapes:
    """Heads and neurons that differ from what the configuration says.

    Returns:
        "heads": attention module -> number of heads, or the heads themselves where each has a column in a shared bias;
        "neurons": block -> width of its feed-forward part. What is as usual is left out.
    """
    heads, neurons = {}, {}
    for attention in attentions(model, family):
        own = getattr(attention.module, "heads", None)
        usual = head_count(model.config, family, _stack(family, attention.output_name))
        if own is not None or attention.count != usual:
            heads[attention.name] = attention.count if own is None else list(own)
    for part in feed_forwards(model, family):
        if part.count != width_of(model.config, _stack(family, part.output_name)):
            neurons[part.name] = part.count
    return {name: found for name, found in (("heads", heads), ("neurons", neurons)) if found}


def restore(model: PreTrainedModel, family: Family, shapes: Mapping[str, Mapping[str, Any]]) -> None:
    """Give an ordinary model of the same configuration the shapes that `uneven` told; its weights mean nothing then."""
    heads, neurons = shapes.get("heads", {}), shapes.get("neurons", {})
    for attention in attentions(model, family):
        if (kept := heads.get(attention.name)) is not None:
            attention.keep(model, range(kept) if isinstance(kept, int) else kept)
    for part in feed_forwards(model, family):
        if (width := neurons.get(part.name)) is not None:
            part.keep(model, range(width))


def settle(model: PreTrainedModel, family: Family) -> None:
    """Let the configuration say what it can of the model's heads and neurons."""
    widths: dict[str, set[int]] = {}
    for part in feed_forwards(model, family):
        widths.setdefault(_stack(family, part.output_name).neurons, set()).add(part.count)
    for name, found in widths.items():
        if len(found) == 1:
            _say(model, name, found.pop())
    if family.heads.own_width:
        _settle_heads(model, family)


def _settle_heads(model: PreTrainedModel, family: Family) -> None:
    parts = attentions(model, family)
    counts = {part.count for part in parts}
    own = {part.name: getattr(part.module, "heads", None) for part in parts}
    if len(counts) > 1 or not any(own.values()):
        return
    for stack in family.stacks:
        inside = [part for part in parts if _stack(family, part.output_name) == stack]
        if len({own[part.name] for part in inside if part.role == "attention_output"}) > 1:
            return
    from compress_exp.layers.shared_bias import whole

    for part in parts:
        model.set_submodule(part.name, whole(part.module))
    for stack in family.stacks:
        _say(model, stack.heads, counts.copy().pop())


def _say(model: PreTrainedModel, name: str, value: int) -> None:
    # Stacks may hold copies of the configuration.
    for module in (model, *model.modules()):
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, name):
            setattr(config, name, value)


def _stack(family: Family, name: str) -> Stack:
    stack = family.stack_of(name)
    assert stack is not None
    return stack

"""Cross-layer sharing: several layers of a stack have one set of weights, which is stored once and then trained.

Universal Transformers (Dehghani et al. 2019, arXiv:1807.03819) and ALBERT (Lan et al. 2020, arXiv:1909.11942) share one
set among all layers. With k layers a set, M sets in all, Takase & Kiyono 2021 (arXiv:2104.06022) give layer i set ⌊i/k⌋
(`sequence`), i mod M (`cycle`), or the latter with the last M layers in reverse (`cycle_rev`). Pretrained layers are
joined as in Relaxed Recursive Transformers (Bae et al. 2024, arXiv:2410.20672): the shared weights start as those of
the first layer of each set, or as the mean of its layers. Everything in a layer is shared, norms and biases too; each
layer keeps its place, hence a cache of its own, and T5's bias of positions stays with the first. The gradient of a
shared weight is the sum over its layers. Nothing becomes faster: as many layers are computed as before.
Defaults: pairs of neighbours, from the first of each.
Cost: none; the optimizer has fewer moments to keep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from compress_exp.config.checks import FieldError, check_choice, check_number
from compress_exp.layers.sharing import blocks_of, fits, share, shareable
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.context import Context
from compress_exp.methods.parametrized import bake

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

PATTERNS = ("sequence", "cycle", "cycle_rev")
STARTS = ("first", "mean")


def sets_of(depth: int, group: int | None, pattern: str) -> list[int]:
    """The number of the set of weights that each of `depth` layers has.

    Args:
        depth: layers.
        group: layers that share; None for all.
        pattern: "sequence", "cycle" or "cycle_rev".
    """
    count = 1 if group is None else -(-depth // group)
    if pattern == "sequence":
        return [0 if group is None else layer // group for layer in range(depth)]
    if pattern == "cycle" or count == depth:
        return [layer % count for layer in range(depth)]
    turned = depth - count  # from this layer on the sets come backwards
    return [layer % count if layer < turned else depth - 1 - layer for layer in range(depth)]


@dataclass(frozen=True, kw_only=True)
class LayerSharing(Method):
    """Let layers share their weights.

    Attributes:
        group: layers that share one set, at least 2; null for all layers of a stack.
        pattern: which ones: "sequence", "cycle" or "cycle_rev".
        start: what they start from: "first" of them or their "mean".
    """

    origin: ClassVar[str] = "share/layers"

    group: int | None = 2
    pattern: str = "sequence"
    start: str = "first"

    replaces_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group is not None:
            check_number("group", self.group, 2)
        check_choice("pattern", self.pattern, PATTERNS)
        check_choice("start", self.start, STARTS)

    def check(self, facts: Facts) -> Facts:
        """There are layers to share, none of which share already; a mean would fill what was pruned."""
        after = super().check(facts)
        if any(stack.shared for stack in facts.family.stacks):
            raise FieldError("", "one block serves every layer of this model already; leave share out")
        if facts.shared:
            raise FieldError("", f"{facts.shared} lets layers share their weights already; leave one out")
        if max(facts.layers.values()) < 2:
            raise FieldError("", "no stack of this model has two layers that could share weights")
        if facts.pruned and self.start == "mean":
            raise FieldError("start", "the mean of layers would undo the pruning before it; set start=first")
        return replace(after, shared=self.name)

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Tie the layers of each set to its first one."""
        bake(model)
        stacks: dict[str, list[tuple[str, nn.Module]]] = {}
        for name, block in blocks_of(model, context.family):
            stacks.setdefault(name.rpartition(".")[0], []).append((name, block))
        for layers in stacks.values():
            members: dict[int, list[tuple[str, nn.Module]]] = {}
            for number, layer in zip(sets_of(len(layers), self.group, self.pattern), layers, strict=True):
                members.setdefault(number, []).append(layer)
            for (first, owner), *others in members.values():
                for name, holder in others:
                    if not fits(holder, owner):
                        raise FieldError("", f"{name} has not the shapes of {first}; share before heads or neurons go")
                if self.start == "mean":
                    _average(owner, [holder for _, holder in others])
                for _, holder in others:
                    share(holder, owner)
        return model


def _average(owner: nn.Module, others: list[nn.Module]) -> None:
    """Give a block the mean of its own tensors and those of others that have them."""
    alike = [shareable(block) for block in (owner, *others)]
    for name, tensor in alike[0].items():
        values = [own[name].detach().double() for own in alike if name in own]
        if tensor.is_floating_point():
            tensor.data.copy_(torch.stack(values).mean(0))

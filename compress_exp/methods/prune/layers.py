"""Layer dropping: whole blocks go before training, what is left is an ordinary architecture.

`every_other` keeps layers ⌊i·L/k⌋ (LayerDrop's choice at inference, Fan et al. 2020, arXiv:1909.11556), `first` and
`last` keep one end, `block_influence` drops the layers of lowest 1 − E cos(h_ℓ, h_ℓ+1) over tokens (ShortGPT, Men et
al. 2024, arXiv:2403.03853). Every stack of an encoder-decoder keeps the same share of its layers, and at least one.
T5's relative bias stays in the first block that is left. Where one block serves every layer (ALBERT) they become fewer
and faster, not smaller. Training with randomly dropped layers (LayerDrop's other half) is not done: it pays only where
the pre-training did it.
Defaults: half of every stack, every other layer.
Cost: one forward pass over 16 batches of 32 training rows for `block_influence`, else nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from compress_exp.config.checks import FieldError, check_choice
from compress_exp.layers.blocks import with_layers
from compress_exp.methods.base import Facts
from compress_exp.methods.context import Context
from compress_exp.methods.parametrized import bake
from compress_exp.methods.prune.common.amount import content, told
from compress_exp.methods.prune.common.importance import influences
from compress_exp.methods.prune.common.removal import Removal
from compress_exp.models.families.base import Family, layer_counts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("compress_exp")
KEEP = ("every_other", "first", "last", "block_influence")


def counts_of(depths: dict[str, int], share: float) -> dict[str, int]:
    """Layers that each stack keeps when a share of them goes: round((1 − share)·L), at least one."""
    return {name: max(1, round((1 - share) * depth)) for name, depth in depths.items()}


def survivors(keep: str, depth: int, count: int, influence: Sequence[float] | None = None) -> list[int]:
    """Which `count` of `depth` layers stay, in order.

    Args:
        keep: "every_other", "first", "last" or "block_influence".
        depth: layers there are.
        count: layers to keep.
        influence: of each layer, for "block_influence"; among equal ones the later layers go first.
    """
    if keep == "every_other":
        return [index * depth // count for index in range(count)]
    if keep == "block_influence" and influence is not None:
        return sorted(sorted(range(depth), key=lambda index: (-influence[index], index))[:count])
    return list(range(depth - count, depth)) if keep == "last" else list(range(count))


@dataclass(frozen=True, kw_only=True)
class LayerPruning(Removal):
    """Drop layers.

    Attributes:
        keep: "every_other", "first", "last" or "block_influence".
        sparsity: share of each stack's layers that goes; or
        parameters: parameters that are left of the whole model; or
        megabytes: size of the stored weights in 10⁶ bytes. Exactly one of the three is set.
    """

    origin: ClassVar[str] = "prune/layers"

    keep: str = "every_other"

    whole_layers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("keep", self.keep, KEEP)

    def check(self, facts: Facts) -> Facts:
        """A share of the layers must be some of them; where one block serves all, nothing but a share can be asked."""
        after = replace(super().check(facts), heads=facts.heads, neurons=facts.neurons, widths=facts.widths)
        if self.sparsity is not None:
            counts = counts_of(facts.layers, self.sparsity)
            if self.sparsity and counts == facts.layers:
                told = ", ".join(f"{depth} in the {name}" for name, depth in facts.layers.items())
                least = 0.5 / max(facts.layers.values())
                raise FieldError(
                    "sparsity", f"{self.sparsity:g} is less than one layer ({told}); at least {least:.3g} is needed"
                )
            return replace(after, layers=counts)
        if facts.shared or any(stack.shared for stack in facts.family.stacks):
            shared = "layers share their weights in" if facts.shared else "one block serves every layer of"
            raise FieldError(
                "parameters" if self.megabytes is None else "megabytes",
                f"{shared} this model, so that no parameter goes with them; set sparsity instead",
            )
        return after

    def reach(self, model: PreTrainedModel, family: Family) -> None:
        """With any number of layers from one, whichever they are."""
        self._kept(model, family, {})

    def kept(self, model: PreTrainedModel, context: Context) -> dict[str, list[int]]:
        """The layers of each stack."""
        found = influences(model, context.family, context, self.calibration) if self.keep == "block_influence" else {}
        kept = self._kept(model, context.family, found)
        for name, layers in kept.items():
            log.info("%s: layers %s of the %s are left", self.name, ", ".join(map(str, layers)), name)
        return kept

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """A copy with the layers that stay."""
        bake(model)
        return with_layers(model, context.family, spec).to(context.device)  # type: ignore[arg-type]

    def _kept(
        self, model: PreTrainedModel, family: Family, influence: Mapping[str, Sequence[float]]
    ) -> dict[str, list[int]]:
        """Which layers of each stack stay; without their influence as many of them."""
        depths = layer_counts(model.config, family)

        def layers(counts: dict[str, int]) -> dict[str, list[int]]:
            return {
                name: survivors(self.keep, depths[name], count, influence.get(name)) for name, count in counts.items()
            }

        if self.sparsity is not None:
            return layers(counts_of(depths, self.sparsity))
        steps = sorted({gone / depth for depth in depths.values() for gone in range(depth)})
        choices = [layers(counts_of(depths, share)) for share in steps]
        whole, sizes = self._measure(model), self._sizes(model, family)
        left = [
            whole - sum(size for (name, layer), size in sizes.items() if layer not in kept[name]) for kept in choices
        ]
        name, value = ("parameters", self.parameters) if self.megabytes is None else ("megabytes", self.megabytes)
        assert value is not None
        slack = max((abs(a - b) for a, b in zip(left, left[1:], strict=False)), default=0.0) / 2
        nearest = min(range(len(left)), key=lambda index: abs(left[index] - value))
        if abs(left[nearest] - value) > slack:
            can = f"from {told(name, min(left))} to {told(name, max(left))} can"
            raise FieldError(name, f"{told(name, value)} cannot be reached by dropping layers; {can}")
        return choices[nearest]

    def _sizes(self, model: PreTrainedModel, family: Family) -> dict[tuple[str, int], float]:
        """Parameters or megabytes of every layer, by its stack and number."""
        sizes: dict[tuple[str, int], float] = {}
        for name, module in model.named_modules():
            stack = family.stack_of(f"{name}.")
            if stack is None or family.block_of(f"{name}.") != name:
                continue
            # A table in a block is T5's relative bias, which stays.
            tables = {id(table.weight) for table in module.modules() if isinstance(table, nn.Embedding)}
            sizes[stack.name, int(name.rpartition(".")[2])] = self._measure(module, tables)
        return sizes

    def _measure(self, module: nn.Module, but: Set[int] = frozenset()) -> float:
        parameters, size = content(module, but)
        return parameters if self.megabytes is None else size / 1e6

"""Attention heads: where they are, and how some of them go for good.

With a head go its rows of the query, key and value projections with their biases, and its columns of the output
projection: exactly what multiplying its contribution by zero does. Layers may keep different numbers of heads. Where
several heads of queries share a key and a value head, they go with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from compress_exp.layers.slices import Slice, inputs_of, keep_inputs, keep_outputs, outputs_of, reader, writer
from compress_exp.models.families.base import Family, Heads, blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INPUTS = ("query", "key", "value")


@dataclass(frozen=True)
class Attention(Slice):
    """One attention module.

    Attributes:
        module: what splits the heads.
        layout: how it does.
    """

    module: nn.Module
    layout: Heads

    unit: ClassVar[str] = "head"

    @property
    def count(self) -> int:
        """Its number of heads; with grouped heads those of keys and values."""
        if self.layout.count is not None:
            return int(getattr(self.module, self.layout.count))
        assert self.layout.width is not None
        return min(map(outputs_of, self.inputs)) // int(getattr(self.module, self.layout.width))

    def keep(self, model: PreTrainedModel, units: Sequence[int]) -> None:
        """Keep these heads, in this order."""
        inner, count = inputs_of(self.output), self.count
        for projection in self.inputs:
            outputs = outputs_of(projection)
            length = min(outputs, inner)  # a fused projection holds several runs of heads
            runs = range(0, outputs, length)
            keep_outputs(projection, torch.cat([_channels(units, length // count) + run for run in runs]))
        channels = _channels(units, inner // count)
        keep_inputs(self.output, channels)
        module = self.module
        if self.layout.shared_bias:
            from compress_exp.layers.shared_bias import slim

            module = slim(module, units)
            model.set_submodule(self.name, module)
        if self.layout.count is not None:
            setattr(module, self.layout.count, len(units))
        if self.layout.inner is not None:
            setattr(module, self.layout.inner, len(channels))


def _channels(units: Sequence[int], width: int) -> Tensor:  # (channels,)
    """The channels of some heads of that width."""
    return torch.tensor([unit * width + offset for unit in units for offset in range(width)])


def attentions(model: PreTrainedModel, family: Family) -> list[Attention]:
    """Every attention module, in the order of the blocks; a block's self-attention comes before its cross-attention."""
    found = []
    for block, projections in blocks(model, family).items():
        for prefix, inner in family.heads.modules.items():
            if f"{prefix}attention_output" not in projections:
                continue
            fused = f"{prefix}query_key_value" in projections
            names = [f"{prefix}query_key_value"] if fused else [prefix + role for role in INPUTS]
            output_name, output = projections[f"{prefix}attention_output"]
            found.append(
                Attention(
                    name=f"{block}.{inner}",
                    output_name=output_name,
                    role=f"{prefix}attention_output",
                    inputs=tuple(writer(projections[name][1]) for name in names),
                    output=reader(output),
                    module=model.get_submodule(f"{block}.{inner}"),
                    layout=family.heads,
                )
            )
    return found

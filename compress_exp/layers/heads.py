"""Attention heads: where they are, and how some of them go for good.

With a head go its rows of the query, key and value projections with their biases, and its columns of the output
projection: exactly what multiplying its contribution by zero does. Layers may keep different numbers of heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

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
        """Its number of heads."""
        return int(getattr(self.module, self.layout.count))

    def keep(self, model: PreTrainedModel, units: Sequence[int]) -> None:
        """Keep these heads, in this order."""
        inner = inputs_of(self.output)
        width = inner // self.count
        channels = torch.tensor([head * width + offset for head in units for offset in range(width)])
        for projection in self.inputs:
            runs = range(0, outputs_of(projection), inner)
            keep_outputs(projection, torch.cat([channels + run for run in runs]))
        keep_inputs(self.output, channels)
        module = self.module
        if self.layout.shared_bias:
            from compress_exp.layers.shared_bias import slim

            module = slim(module, units)
            model.set_submodule(self.name, module)
        setattr(module, self.layout.count, len(units))
        if self.layout.inner is not None:
            setattr(module, self.layout.inner, len(units) * width)


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

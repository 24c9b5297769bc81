"""Feed-forward neurons: where they are, and how some of them go for good.

Neuron i is row i of the projection into the feed-forward part with its bias (and row i of the gate, where there is
one), and column i of the projection out of it. A neuron whose activation is zero goes without any difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from compress_exp.layers.slices import Slice, inputs_of, keep_inputs, keep_outputs, reader, writer
from compress_exp.models.families.base import Family, blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class FeedForward(Slice):
    """The feed-forward part of one block."""

    unit: ClassVar[str] = "neuron"

    @property
    def count(self) -> int:
        """Its width."""
        return inputs_of(self.output)

    def keep(self, model: PreTrainedModel, units: Sequence[int]) -> None:
        """Keep these neurons, in this order."""
        index = torch.tensor(units)
        for projection in self.inputs:
            keep_outputs(projection, index)
        keep_inputs(self.output, index)


def feed_forwards(model: PreTrainedModel, family: Family) -> list[FeedForward]:
    """The feed-forward part of every block, in order."""
    found = []
    for block, projections in blocks(model, family).items():
        output_name, output = projections["ffn_out"]
        inputs = tuple(writer(projections[role][1]) for role in ("ffn_gate", "ffn_in") if role in projections)
        found.append(
            FeedForward(name=block, output_name=output_name, role="ffn_out", inputs=inputs, output=reader(output))
        )
    return found

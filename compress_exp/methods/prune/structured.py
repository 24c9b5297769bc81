"""Heads and neurons to one amount: heads by their importance over all layers, neurons equally in each layer.

`heads` and `neurons` say how strongly each is cut: with 1 and 1 both lose the same share of their parameters, with 1
and 2 the neurons twice as large a one.
Defaults: half of both, each with weight 1. Scores, deviations and cost: `compress_exp.methods.prune.heads` and
`.neurons`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compress_exp.config.checks import FieldError, check_choice, check_number
from compress_exp.layers.heads import attentions
from compress_exp.layers.neurons import feed_forwards
from compress_exp.layers.slices import Slice
from compress_exp.methods.context import Context
from compress_exp.methods.prune.common.removal import Removal
from compress_exp.methods.prune.common.units import Unit, check_removable, chosen, entries_of
from compress_exp.methods.prune.heads import head_units
from compress_exp.methods.prune.neurons import SCORES, neuron_units
from compress_exp.models.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class StructuredPruning(Removal):
    """Remove heads and neurons.

    Attributes:
        heads: weight of the heads' share.
        neurons: weight of the neurons' share.
        score: of neurons, "taylor" or "norm".
        multiple: what is left of a layer's neurons is a multiple of it.
    """

    origin: ClassVar[str] = "prune/structured"

    heads: float = 1.0
    neurons: float = 1.0
    score: str = "taylor"
    multiple: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("heads", self.heads, 0)
        check_number("neurons", self.neurons, 0)
        if not self.heads + self.neurons:
            raise FieldError("neurons", "with heads=0 and neurons=0 nothing can go; set one above 0")
        check_choice("score", self.score, SCORES)
        check_number("multiple", self.multiple, 1)

    def reach(self, model: PreTrainedModel, family: Family) -> None:
        """With all heads and neurons but the last."""
        heads = chosen(attentions(model, family), self.select) if self.heads else []
        neurons = chosen(feed_forwards(model, family), self.select) if self.neurons else []
        check_removable(self.amount, [*heads, *neurons], self.multiple, model)

    def kept(self, model: PreTrainedModel, context: Context) -> dict[str, list[int]]:
        """Heads and neurons go in turns, so that each has lost its share at any time."""
        kinds: list[tuple[float, list[Slice], list[Unit]]] = []
        if self.heads:
            parts = chosen(attentions(model, context.family), self.select)
            kinds.append((self.heads, parts, head_units(model, parts, context, self.calibration, "global")))
        if self.neurons:
            parts = chosen(feed_forwards(model, context.family), self.select)
            units = neuron_units(model, parts, context, self.score, self.calibration, "layer", self.multiple)
            kinds.append((self.neurons, parts, units))
        return self.units_kept(model, context, [part for _, parts, _ in kinds for part in parts], in_turns(kinds))


def in_turns(kinds: Sequence[tuple[float, Sequence[Slice], Sequence[Unit]]]) -> list[Unit]:
    """Units of several kinds in one order: at any time the shares that are gone are as the weights of the kinds.

    Args:
        kinds: of each its weight above 0, its parts, and its units in the order in which they go.
    """
    placed: list[tuple[float, int, Unit]] = []
    for number, (weight, parts, units) in enumerate(kinds):
        entries = entries_of(parts)
        gone = 0.0
        for unit in units:
            placed.append(((gone + unit.costs[0] / 2) / entries / weight, number, unit))
            gone += unit.costs[0]
    return [unit for _, _, unit in sorted(placed, key=lambda item: item[:2])]

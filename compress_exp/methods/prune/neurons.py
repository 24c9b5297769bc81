"""Feed-forward neurons go whole: row i of the projections into the feed-forward part, column i of the one out of it.

Scores: "taylor" E|Σ a_i·∂L/∂a_i| over a row's tokens, the first-order change of the loss without neuron i (Molchanov et
al. 2019, arXiv:1906.10771, on activations), or "norm" ‖W₁[i]‖₂·‖W₂[:, i]‖₂ (times the gate's row, where there is one).
Every layer loses equally many, so that the result is an ordinary architecture, or all are compared, each layer's scores
divided by their ℓ2 norm. Defaults: half of every layer by "taylor"; what is left is a multiple of 8 for the kernels.
Cost: one forward and backward pass over 16 batches of 32 training rows for "taylor", nothing for "norm".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compress_exp.config.checks import check_choice, check_number
from compress_exp.layers.neurons import feed_forwards
from compress_exp.layers.slices import Slice
from compress_exp.methods.base import Facts
from compress_exp.methods.context import Context
from compress_exp.methods.prune.common.importance import gate_gradients, normalised, weight_norms
from compress_exp.methods.prune.common.removal import Removal
from compress_exp.methods.prune.common.units import SCOPES, Unit, check_removable, chosen, in_order
from compress_exp.models.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCORES = ("taylor", "norm")


@dataclass(frozen=True, kw_only=True)
class NeuronPruning(Removal):
    """Remove feed-forward neurons.

    Attributes:
        score: "taylor" or "norm".
        scope: "layer" takes equally many from each layer, "global" compares the neurons of all layers.
        multiple: what is left of a layer is a multiple of it.
    """

    origin: ClassVar[str] = "prune/neurons"

    score: str = "taylor"
    scope: str = "layer"
    multiple: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("score", self.score, SCORES)
        check_choice("scope", self.scope, SCOPES)
        check_number("multiple", self.multiple, 1)

    def most(self, facts: Facts) -> float | None:
        """All but the last multiple of every layer."""
        return None if facts.neurons is None else max(0.0, 1 - self.multiple / max(facts.neurons.values()))

    def reach(self, model: PreTrainedModel, family: Family) -> None:
        """With all neurons but the last of each layer."""
        check_removable(self.amount, chosen(feed_forwards(model, family), self.select), self.multiple, model)

    def kept(self, model: PreTrainedModel, context: Context) -> dict[str, list[int]]:
        """All but the neurons of smallest score in the selected feed-forward parts."""
        parts = chosen(feed_forwards(model, context.family), self.select)
        units = neuron_units(model, parts, context, self.score, self.calibration, self.scope, self.multiple)
        return self.units_kept(model, context, parts, units)


def neuron_units(
    model: PreTrainedModel,
    parts: Sequence[Slice],
    context: Context,
    score: str,
    calibration: int,
    scope: str,
    multiple: int,
) -> list[Unit]:
    """Neurons in the order of their normalised score, `multiple` at once."""
    if score == "taylor":
        scores = gate_gradients(model, parts, context, calibration)
    else:
        scores = [weight_norms(part) for part in parts]
    return in_order(parts, normalised(scores), [part.costs() for part in parts], scope, multiple)

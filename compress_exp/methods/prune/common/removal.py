"""What all removal of heads, neurons and layers shares: an amount, a cut before training, and how heads and neurons go.

Units are ranked once; the last head and neurons of a layer never go. Weights that an earlier stage pruned stay pruned
in what is left. Cost: no memory beyond the model's.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from compress_exp.config.checks import FieldError, check_number
from compress_exp.layers.heads import attentions
from compress_exp.layers.neurons import feed_forwards
from compress_exp.layers.shapes import settle
from compress_exp.layers.slices import Slice
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.context import Context
from compress_exp.methods.parametrized import bake
from compress_exp.methods.prepared import Prepared
from compress_exp.methods.prune.common.amount import ToAmount, content, shapes_of
from compress_exp.methods.prune.common.units import Unit, entries_of, how_many, left, refuse_shared, survivors
from compress_exp.models.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("compress_exp")


@dataclass(frozen=True, kw_only=True)
class Removal(ToAmount, Method, ABC):
    """Remove units until an amount is reached, then train the rest.

    Attributes:
        calibration: batches of 32 training rows that tell importances.
        whole_layers: nothing within a layer goes.
    """

    calibration: int = 16

    replaces_model: ClassVar[bool] = True
    whole_layers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("calibration", self.calibration, 1)
        _ = self.amount

    def check(self, facts: Facts) -> Facts:
        """Anything that is not packed can lose heads and neurons; how many it has is not known afterwards."""
        after = super().check(facts)
        if not self.whole_layers:
            refuse_shared(facts)
        most = self.most(facts)
        if self.sparsity is not None and most is not None and self.sparsity > most + 1e-9:
            raise FieldError("sparsity", f"{self.sparsity:g} would empty a layer; at most {most:.4g} can go")
        model = shapes_of(facts, self.amount, self.select)
        if model is not None:
            self.reach(model, facts.family)
        return replace(after, heads=None, neurons=None, widths={})

    @abstractmethod
    def reach(self, model: PreTrainedModel, family: Family) -> None:
        """Refuse an amount that no cut of this model reaches; it may have shapes alone.

        Raises:
            FieldError: naming the amount, or what selects nothing.
        """

    def most(self, facts: Facts) -> float | None:
        """The largest sparsity that the architecture allows, where that is known."""
        return None

    def fit(self, model: PreTrainedModel, context: Context) -> Prepared:
        """Decide what stays."""
        bake(model)
        return Prepared(dict(self.kept(model, context)))

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Take everything else out, heads and neurons in place."""
        bake(model)
        for part in [*attentions(model, context.family), *feed_forwards(model, context.family)]:
            if part.output_name in spec:
                part.keep(model, spec[part.output_name])
        settle(model, context.family)
        return model

    @abstractmethod
    def kept(self, model: PreTrainedModel, context: Context) -> dict[str, list[int]]:
        """Which parts stay, in order: by stack its layers, or by the projection out of a part its heads or neurons.

        Args:
            model: nothing of it is parametrized.
            context: tells importances.
        """

    def units_kept(
        self, model: PreTrainedModel, context: Context, parts: Sequence[Slice], units: Sequence[Unit]
    ) -> dict[str, list[int]]:
        """What is left when as many units are gone as the amount asks for, by the projection out of each part.

        Args:
            model: has the parts.
            context: its family.
            parts: what is concerned.
            units: what can go, in the order in which it goes.
        """
        parameters, size = content(model)
        entries = entries_of(parts)
        going = units[: how_many(self.amount, units, entries, parameters, size)]
        gone, fewer, smaller = (sum(unit.costs[index] for unit in going) for index in range(3))
        told = (100 * gone / entries, entries, parameters - fewer, (size - smaller) / 1e6)
        log.info(
            "%s: %.2f %% of %d parameters of heads and neurons are gone, %d of the model are left, in %.2f MB",
            self.name,
            *told,
        )
        for kind, counts in left(parts, going, context.family).items():
            log.info("%s: %s", kind, " ".join(map(str, counts)))
        return survivors(going)

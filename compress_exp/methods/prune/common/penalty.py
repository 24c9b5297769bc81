"""What pruning by a penalty shares: gates that training closes, and trimming to an exact amount at the end.

How sparse such a model gets is a result and no setting: it is reported. With `trim` what is left after training is
ranked and cut to the amount.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from compress_exp.config.checks import FieldError, check_number
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import Mask, attach, owned, passing
from compress_exp.methods.prune.common.amount import ToAmount, check_reach
from compress_exp.methods.prune.common.base import (
    ranked,
    refuse_empty,
    set_masks,
    sparsity_of,
    target_sparsity,
    tell,
    unranked,
)
from compress_exp.methods.prune.common.ranking import NoOrder
from compress_exp.methods.select import Target, targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BERT_BASE = 12 * (4 * 768**2 + 2 * 768 * 3072)  # weights in the blocks of the model that published strengths are for


@dataclass(frozen=True, kw_only=True)
class PenaltyPruning(ToAmount, Method, ABC):
    """Zero weights by a term that pulls them there while they train.

    Attributes:
        strength: λ of the penalty, at least 0; null chooses one, where a variant can.
        trim: cut what is left to the amount at the end; without it no amount is set.
        scope: of trimming: "global" compares all weights, "tensor" those of one tensor, "row" those of one output.
    """

    strength: float | None
    trim: bool = False
    scope: str = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength is not None:
            check_number("strength", self.strength, 0)
        if not self.trains:
            raise FieldError("train", "a penalty works while training; set max_steps or epochs above 0")
        given = [name for name in ("sparsity", "parameters", "megabytes") if getattr(self, name) is not None]
        if self.trim and not given:
            raise FieldError("trim", "true cuts to an amount; set one of sparsity, parameters, megabytes")
        if self.trim:
            _ = self.amount
            return
        if given:
            raise FieldError(given[0], "the penalty decides how much is pruned; set trim=true to cut to an amount")

    @abstractmethod
    def gate(self, target: Target, index: int, context: Context) -> Mask:
        """What a weight is to pass through."""

    @abstractmethod
    def importance(self, module: nn.Module, gate: Mask) -> Tensor:
        """What trimming ranks, one number for each weight or group of weights; the smallest go first."""

    def trimmed(
        self,
        holders: Sequence[tuple[nn.Module, Mask]],
        kept: Sequence[Tensor],  # bool, in each weight's shape: what the penalty left
        sparsity: float,
    ) -> list[Tensor]:  # bool, in each weight's shape
        """What is kept at a sparsity."""
        scores = [self.importance(module, gate) for module, gate in holders]
        return ranked([module for module, _ in holders], scores, kept, sparsity, self.scope)

    def check(self, facts: Facts) -> Facts:
        """Anything dense or already pruned can be pruned (further)."""
        after = super().check(facts)
        if self.trim:
            check_reach(self.amount, self.select, facts)
        return replace(after, pruned=True)

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Give every selected weight a gate; what is locked stays so."""
        for index, target in enumerate(targets(model, context.family, self.select)):
            gate = self.gate(target, index, context).to(context.device)
            gate.owner = self.name
            attach(target.modules, gate)
        if self.trim:
            target_sparsity(self.amount, model, self.name)
        return model

    def finish(self, work: Work) -> None:
        """Trim, where that is asked for.

        Raises:
            FieldError: scores to trim by are not finite.
            UserError: a tensor has lost every weight.
        """
        holders = owned(work.model, self.name, Mask)
        kept = [passing(module) for module, _ in holders]
        refuse_empty(kept, self.name)
        if self.trim:
            sparsity = target_sparsity(self.amount, work.model, self.name)
            try:
                masks = self.trimmed(holders, kept, sparsity)
            except NoOrder as error:
                raise unranked(work.model, holders, error) from error
            set_masks(holders, masks, self.name)
        tell(work.model, self.name)

    def curves(self, work: Work) -> dict[str, float]:
        """The sparsity reached, over the selected weights."""
        return {"sparsity": sparsity_of(work.model, self.name)}

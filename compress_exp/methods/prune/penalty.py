"""What pruning by a penalty shares: gates that training closes, and trimming to an exact amount at the end.

How sparse such a model gets is a result and no setting: it is reported. With `trim` the last step ranks what is left
and cuts it to the amount.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from compress_exp.config import FieldError, check_number
from compress_exp.methods.base import Context, Facts, Method
from compress_exp.methods.parametrized import Mask, attach, owned, passing
from compress_exp.methods.prune.amount import Amount, check_reach
from compress_exp.methods.prune.base import ranked, refuse_empty, set_masks, share_of, sparsity_of
from compress_exp.methods.select import Target, targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BERT_BASE = 12 * (4 * 768**2 + 2 * 768 * 3072)  # weights in the blocks of the model that published strengths are for


@dataclass(frozen=True, kw_only=True)
class PenaltyPruning(Method, ABC):
    """Zero weights by a term that pulls them there while they train.

    Attributes:
        strength: λ of the penalty, at least 0; null chooses one, where a variant can.
        trim: cut what is left to the amount at the end; without it no amount is set.
        sparsity: share of the selected weights that is zero at the end; or
        parameters: nonzero parameters that are left of the whole model; or
        megabytes: size of the stored weights in 10⁶ bytes.
        scope: of trimming: "global" compares all weights, "tensor" those of one tensor, "row" those of one output.
    """

    strength: float | None
    trim: bool = False
    sparsity: float | None = None
    parameters: int | None = None
    megabytes: float | None = None
    scope: str = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength is not None:
            check_number("strength", self.strength, 0)
        if not self.trains:
            raise FieldError("train", "a penalty works while training; set max_steps or epochs above 0")
        if self.trim:
            _ = self.amount
            return
        for name in ("sparsity", "parameters", "megabytes"):
            if getattr(self, name) is not None:
                raise FieldError(name, "the penalty decides how much is pruned; set trim=true to cut to an amount")

    @property
    def amount(self) -> Amount:
        """What trimming reaches."""
        return Amount(sparsity=self.sparsity, parameters=self.parameters, megabytes=self.megabytes)

    @abstractmethod
    def gate(self, target: Target, index: int, context: Context) -> Mask:
        """What a weight is to pass through."""

    @abstractmethod
    def importance(self, module: nn.Module, gate: Mask) -> Tensor:
        """What trimming ranks, one number for each weight or group of weights; the smallest go first."""

    def reduced(self, module: nn.Module, kept: Tensor) -> Tensor:
        """What is kept, in the shape of `importance`."""
        return kept

    def spread(self, module: nn.Module, kept: Tensor) -> Tensor:
        """What is kept, from the shape of `importance` to the weight's."""
        return kept

    def check(self, facts: Facts) -> Facts:
        """Anything dense or already pruned can be pruned (further)."""
        if self.trim:
            check_reach(self.amount, self.select, facts)
        return replace(super().check(facts), pruned=True)

    def prepare(self, model: PreTrainedModel, context: Context) -> PreTrainedModel:
        """Give every selected weight a gate; what is locked stays so."""
        for index, target in enumerate(targets(model, context.family, self.select)):
            gate = self.gate(target, index, context).to(context.device)
            gate.owner = self.name
            attach(target, gate)
        if self.trim:
            share_of(self.amount, model, self.name)
        return model

    def step(self, model: PreTrainedModel, progress: float) -> None:
        """At the last step, trim.

        Raises:
            UserError: a tensor has lost every weight.
        """
        holders = owned(model, self.name, Mask)
        kept = [passing(module) for module, _ in holders]
        refuse_empty(kept, self.name)
        if progress < 1.0 or not self.trim:
            return
        modules = [module for module, _ in holders]
        scores = [self.importance(module, gate) for module, gate in holders]
        kept = [self.reduced(module, mask) for module, mask in zip(modules, kept, strict=True)]
        masks = ranked(modules, scores, kept, share_of(self.amount, model, self.name), self.scope)
        set_masks(holders, [self.spread(module, mask) for module, mask in zip(modules, masks, strict=True)], self.name)

    def curves(self, model: PreTrainedModel) -> dict[str, float]:
        """The sparsity reached, over the selected weights."""
        return {"sparsity": sparsity_of(model, self.name)}

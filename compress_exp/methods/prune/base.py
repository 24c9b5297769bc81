"""What all pruning by rank shares: an amount, a schedule, masks that follow it, and the order that a score gives.

Masks are nested: a pruned weight never comes back. Cost: no extra memory but one byte a weight (and a float32 where
scores are decided before training); a mask update selects once over the weights compared, at most a hundred times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from compress_exp.config import FieldError, UserError, check_choice
from compress_exp.methods.base import Context, Facts, Method
from compress_exp.methods.parametrized import Mask, attach, attached, locked, owned
from compress_exp.methods.prune.amount import Amount
from compress_exp.methods.prune.ranking import SCOPES, cut, ranked_masks, zeros_of
from compress_exp.methods.schedules import SCHEDULES, sparsity_at
from compress_exp.methods.select import Target, original, targets, weight_of
from compress_exp.models.families.base import is_conv1d

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UPDATES = 100


@dataclass(frozen=True, kw_only=True)
class Pruning(Method):
    """Zero the weights of smallest score while the rest trains on.

    Attributes:
        sparsity: share of the selected weights that is zero at the end; or
        parameters: nonzero parameters that are left of the whole model; or
        megabytes: size of the stored weights in 10⁶ bytes. Exactly one of the three is set.
        scope: "global" compares all weights, "tensor" those of one tensor, "row" those of one output.
        schedule: "one_shot", "cubic", "linear", "exponential" or "geometric"; `end` says when it is done.
    """

    sparsity: float | None = None
    parameters: int | None = None
    megabytes: float | None = None
    scope: str = "tensor"
    schedule: str = "one_shot"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scope", self.scope, SCOPES)
        check_choice("schedule", self.schedule, SCHEDULES)
        self.check_amount()

    def check_amount(self) -> None:
        """Require one amount.

        Raises:
            FieldError: none or several are set, or it is out of range.
        """
        _ = self.amount

    @property
    def amount(self) -> Amount:
        """How much is to be pruned."""
        return Amount(sparsity=self.sparsity, parameters=self.parameters, megabytes=self.megabytes)

    def check(self, facts: Facts) -> Facts:
        """Anything dense or already pruned can be pruned (further)."""
        return replace(super().check(facts), pruned=True)

    def prepare(self, model: PreTrainedModel, context: Context) -> PreTrainedModel:
        """Give every selected weight a mask; one that an earlier stage left is taken over."""
        chosen = targets(model, context.family, self.select)
        scores = self.fixed_scores(model, chosen, context)
        for index, target in enumerate(chosen):
            mask = attached(target.modules[0], Mask)
            if mask is None:
                mask = Mask(target.weight)
                attach(target, mask)
            mask.owner = self.name
            mask.score = None if scores is None else scores[index]
        self.share_of(model)
        return model

    def fixed_scores(self, model: PreTrainedModel, chosen: Sequence[Target], context: Context) -> list[Tensor] | None:
        """Scores that are decided before training.

        Returns:
            One of each target's shape, larger is kept longer; None where `score` looks at the weights of the moment.
        """
        return None

    def score(self, module: nn.Module, mask: Mask) -> Tensor:
        """What ranks a module's weights now, in their shape."""
        return original(module).abs() if mask.score is None else mask.score

    def step(self, model: PreTrainedModel, progress: float) -> None:
        """Cut to the sparsity that the schedule asks for now."""
        if self.rounds == 1:
            progress = math.ceil(round(progress * UPDATES, 6)) / UPDATES
        sparsity = sparsity_at(progress, self.share_of(model), self.schedule)
        holders = owned(model, self.name, Mask)
        kept = [mask.mask for _, mask in holders]
        groups = [kept] if self.scope == "global" else [[mask] for mask in kept]
        if all(cut(sparsity, group) == zeros_of(group) for group in groups):
            return
        for (_, mask), new in zip(holders, self.masks(holders, sparsity), strict=True):
            mask.mask.copy_(new)

    def masks(self, holders: Sequence[tuple[nn.Module, Mask]], sparsity: float) -> list[Tensor]:
        """The masks of a sparsity, nested in what is kept now.

        Raises:
            UserError: a tensor would lose every weight.
        """
        turned = [self.scope == "row" and is_conv1d(module) for module, _ in holders]
        scores = [_turn(self.score(module, mask), turn) for (module, mask), turn in zip(holders, turned, strict=True)]
        kept = [
            _turn(locked(module, "") & mask.mask, turn) for (module, mask), turn in zip(holders, turned, strict=True)
        ]
        masks = ranked_masks(scores, kept, sparsity, self.scope)
        if not all(bool(mask.any()) for mask in masks):
            raise UserError(
                f"method.prune: {self.name} at sparsity {sparsity:.3g} with scope={self.scope} prunes a whole tensor "
                "to nothing; prune less, or set method.prune.scope=tensor"
            )
        return [_turn(mask, turn) for mask, turn in zip(masks, turned, strict=True)]

    def share_of(self, model: PreTrainedModel) -> float:
        """The final sparsity of the selected weights.

        Raises:
            UserError: the amount cannot be reached by them.
        """
        try:
            return self.amount.share(model, [module for module, _ in owned(model, self.name, Mask)])
        except FieldError as error:
            raise UserError(f"method.prune.{error}") from error

    def curves(self, model: PreTrainedModel) -> dict[str, float]:
        """The sparsity reached, over the selected weights."""
        weights = [weight_of(module) for module, _ in owned(model, self.name, Mask)]
        return {"sparsity": sum(int((weight == 0).sum()) for weight in weights) / sum(w.numel() for w in weights)}


def _turn(tensor: Tensor, turn: bool) -> Tensor:
    """Conv1D's weight (in × out) as rows of outputs, and back."""
    return tensor.T if turn else tensor

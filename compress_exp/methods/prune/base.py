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
from compress_exp.methods.parametrized import Mask, attach, attached, owned, passing
from compress_exp.methods.prune.amount import Amount, check_reach
from compress_exp.methods.prune.ranking import SCOPES, cut, ranked_masks, zeros_of
from compress_exp.methods.schedules import SCHEDULES, sparsity_at
from compress_exp.methods.select import Target, original, targets
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
        _ = self.amount

    @property
    def amount(self) -> Amount:
        """How much is to be pruned."""
        return Amount(sparsity=self.sparsity, parameters=self.parameters, megabytes=self.megabytes)

    def check(self, facts: Facts) -> Facts:
        """Anything dense or already pruned can be pruned (further)."""
        check_reach(self.amount, self.select, facts)
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
        kept = [passing(module) for module, _ in holders]
        scores = [self.score(module, mask) for module, mask in holders]
        set_masks(holders, ranked([module for module, _ in holders], scores, kept, sparsity, self.scope), self.name)

    def share_of(self, model: PreTrainedModel) -> float:
        """The final sparsity of the selected weights.

        Raises:
            UserError: the amount cannot be reached by them.
        """
        return share_of(self.amount, model, self.name)

    def curves(self, model: PreTrainedModel) -> dict[str, float]:
        """The sparsity reached, over the selected weights."""
        return {"sparsity": sparsity_of(model, self.name)}


def share_of(amount: Amount, model: PreTrainedModel, owner: str) -> float:
    """The share of a method's weights that an amount wants to be zero.

    Raises:
        UserError: it cannot be reached by them.
    """
    try:
        return amount.share(model, [module for module, _ in owned(model, owner, Mask)])
    except FieldError as error:
        raise UserError(f"method.prune.{error}") from error


def sparsity_of(model: PreTrainedModel, owner: str) -> float:
    """The share of a method's weights that is zero now."""
    kept = [passing(module) for module, _ in owned(model, owner, Mask)]
    return zeros_of(kept) / sum(mask.numel() for mask in kept)


def ranked(
    modules: Sequence[nn.Module],
    scores: Sequence[Tensor],  # in the shape of each module's weight
    kept: Sequence[Tensor],  # bool, the same shapes
    sparsity: float,
    scope: str,
) -> list[Tensor]:
    """`ranked_masks`, with rows of outputs also where the weight is in × out (Conv1D)."""
    turned = [scope == "row" and is_conv1d(module) for module in modules]
    masks = ranked_masks(
        [score.T if turn else score for score, turn in zip(scores, turned, strict=True)],
        [mask.T if turn else mask for mask, turn in zip(kept, turned, strict=True)],
        sparsity,
        scope,
    )
    return [mask.T if turn else mask for mask, turn in zip(masks, turned, strict=True)]


def set_masks(holders: Sequence[tuple[nn.Module, Mask]], masks: Sequence[Tensor], name: str) -> None:
    """Let the gates follow.

    Raises:
        UserError: a tensor would lose every weight.
    """
    refuse_empty(masks, name)
    for (_, gate), mask in zip(holders, masks, strict=True):
        gate.mask.copy_(mask)


def refuse_empty(masks: Sequence[Tensor], name: str) -> None:
    """Require that every mask keeps something.

    Raises:
        UserError: one keeps nothing.
    """
    if not all(bool(mask.any()) for mask in masks):
        raise UserError(
            f"method.prune: {name} prunes a whole tensor to nothing; prune less (a smaller sparsity or strength), or "
            "compare the weights of each tensor with each other (method.prune.scope=tensor)"
        )

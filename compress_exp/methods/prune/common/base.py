"""What all pruning by rank shares: an amount, a schedule, masks that follow it, and the order that a score gives.

Masks are nested: a pruned weight never comes back. Cost: no extra memory but one byte a weight (and a float32 where
scores are decided before training); a mask update selects once over the weights compared, at most a hundred times.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from compress_exp.config.checks import FieldError, UserError, check_choice
from compress_exp.layers.weights import original
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import Mask, adapted, owned, passing, take
from compress_exp.methods.prepared import Prepared, entries
from compress_exp.methods.prune.common.amount import Amount, ToAmount, check_reach, content
from compress_exp.methods.prune.common.ranking import SCOPES, NoOrder, ranked_masks, zeros_of
from compress_exp.methods.schedules import SCHEDULES, sparsity_at
from compress_exp.methods.select import Target, targets
from compress_exp.methods.window import Window
from compress_exp.models.families.base import is_conv1d

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("compress_exp")
UPDATES = 100


@dataclass(frozen=True, kw_only=True)
class Pruning(ToAmount, Window, Method):
    """Zero the weights of smallest score while the rest trains on.

    Attributes:
        scope: "global" compares all weights, "tensor" those of one tensor, "row" those of one output.
        schedule: "one_shot", "cubic", "linear", "exponential" or "geometric"; `end` says when it is done.
        nested: a pruned weight never comes back.
    """

    scope: str = "tensor"
    schedule: str = "one_shot"

    nested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scope", self.scope, SCOPES)
        check_choice("schedule", self.schedule, SCHEDULES)
        _ = self.amount

    def check(self, facts: Facts) -> Facts:
        """Anything dense or already pruned can be pruned (further)."""
        after = super().check(facts)
        check_reach(self.amount, self.select, facts)
        return replace(after, pruned=True)

    def fit(self, model: PreTrainedModel, context: Context) -> Prepared | None:
        """The scores that are decided before training."""
        chosen = targets(model, context.family, self.select)
        scores = self.fixed_scores(model, chosen, context)
        if scores is None:
            return None
        spec = {"scored": True}
        self.insert(model, spec, context)
        for (_, mask), score in zip(owned(model, self.name, Mask), scores, strict=True):
            mask.score = score
        return Prepared(spec, entries(model, [target.names[0] for target in chosen], (".score",)))

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Give every selected weight a mask; one that an earlier stage left is taken over."""
        take(targets(model, context.family, self.select), self.name)
        for module, mask in owned(model, self.name, Mask):
            mask.score = torch.zeros_like(original(module)) if spec.get("scored") else None
        target_sparsity(self.amount, model, self.name)
        return model

    def fixed_scores(self, model: PreTrainedModel, chosen: Sequence[Target], context: Context) -> list[Tensor] | None:
        """Scores that are decided before training.

        Returns:
            One of each target's shape, larger is kept longer; None where `score` looks at the weights of the moment.
        """
        return None

    def score(self, module: nn.Module, mask: Mask) -> Tensor:
        """What ranks a module's weights now, in their shape."""
        return adapted(module).abs() if mask.score is None else mask.score

    def step(self, work: Work) -> None:
        """Cut to the sparsity that the schedule asks for now.

        Raises:
            FieldError: scores are not finite.
            UserError: a tensor would lose every weight.
        """
        moment = self.moment(work.progress)
        holders = owned(work.model, self.name, Mask)
        if float(holders[0][1].ranked_at) == moment:
            return
        sparsity = sparsity_at(moment, target_sparsity(self.amount, work.model, self.name), self.schedule)
        kept = [passing(module, None if self.nested else self.name) for module, _ in holders]
        try:
            masks = self.ranked(holders, kept, sparsity)
        except NoOrder as error:
            raise unranked(work.model, holders, error) from error
        set_masks(holders, masks, self.name)
        for _, mask in holders:
            mask.ranked_at.fill_(moment)

    def moment(self, progress: float) -> float:
        """The progress for which masks are ranked: by hundredths, or once where nothing changes afterwards."""
        if self.course.held:
            return progress
        if self.nested and self.schedule == "one_shot":
            return float(progress > 0.0)
        return math.ceil(round(progress * UPDATES, 6)) / UPDATES

    def ranked(
        self,
        holders: Sequence[tuple[nn.Module, Mask]],
        kept: Sequence[Tensor],  # bool, in each weight's shape: what may still be kept
        sparsity: float,
    ) -> list[Tensor]:  # bool, in each weight's shape
        """What is kept at a sparsity."""
        scores = [self.score(module, mask) for module, mask in holders]
        return ranked([module for module, _ in holders], scores, kept, sparsity, self.scope)

    def finish(self, work: Work) -> None:
        """Say what was reached."""
        tell(work.model, self.name)

    def curves(self, work: Work) -> dict[str, float]:
        """The sparsity reached, over the selected weights."""
        return {"sparsity": sparsity_of(work.model, self.name)}


def target_sparsity(amount: Amount, model: PreTrainedModel, owner: str) -> float:
    """The share of a method's weights that an amount wants to be zero.

    Raises:
        FieldError: it cannot be reached by them.
    """
    return amount.share(model, [module for module, _ in owned(model, owner, Mask)])


def sparsity_of(model: PreTrainedModel, owner: str) -> float:
    """The share of a method's weights that is zero now."""
    kept = [passing(module) for module, _ in owned(model, owner, Mask)]
    return zeros_of(kept) / sum(mask.numel() for mask in kept)


def tell(model: PreTrainedModel, owner: str) -> None:
    """Log how many of a method's weights, and of the model's parameters, are zero."""
    weights = sum(original(module).numel() for module, _ in owned(model, owner, Mask))
    share, left = 100 * sparsity_of(model, owner), content(model)[0]
    log.info(
        "%s: %.2f %% of %d selected weights are zero, %d parameters of the model are left", owner, share, weights, left
    )


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


def unranked(model: PreTrainedModel, holders: Sequence[tuple[nn.Module, Mask]], error: NoOrder) -> FieldError:
    """The refusal of scores that are not finite, with the name of the module that they are of."""
    place = next(name for name, module in model.named_modules() if module is holders[error.index][0])
    return FieldError("", f"{place}: {error}")


def set_masks(holders: Sequence[tuple[nn.Module, Mask]], masks: Sequence[Tensor], name: str) -> None:
    """Let the gates follow.

    Raises:
        UserError: a tensor would lose every weight.
    """
    refuse_empty(masks, name)
    for (_, gate), mask in zip(holders, masks, strict=True):
        gate.factor.copy_(mask)


def refuse_empty(masks: Sequence[Tensor], name: str) -> None:
    """Require that every mask keeps something.

    Raises:
        UserError: one keeps nothing.
    """
    if not all(bool(mask.any()) for mask in masks):
        raise UserError(
            f"{name} prunes a whole tensor to nothing; prune less (a smaller sparsity or strength), or compare the "
            "weights of each tensor with each other (scope=tensor)"
        )

"""Magnitude pruning (Han et al. 2015, arXiv:1506.02626), one-shot, gradual or in rounds.

The k = round(s·n) weights of smallest |w| are set to zero. Gradual pruning follows the cubic schedule of Zhu & Gupta
(2017, arXiv:1710.01878), s_t = s·(1 − (1 − t)³); rounds with the geometric schedule are the iterative pruning of
Frankle & Carbin (2019, arXiv:1803.03635) without rewinding. Masks are nested: a pruned weight never comes back.
Cost: no data, no extra memory but one byte a weight; a mask update selects once over the weights compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compress_exp.config import UserError, check_choice, check_number
from compress_exp.methods.base import Context, Facts, Method
from compress_exp.methods.parametrized import Mask, attach, attached, parametrized
from compress_exp.methods.schedules import SCHEDULES, sparsity_at
from compress_exp.methods.select import original, targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UPDATES = 100


def smallest(
    scores: Tensor,  # any shape
    count: int,
) -> Tensor:  # bool, same shape
    """Mark exactly the `count` smallest scores; among equal ones those of the lowest index."""
    flat = scores.flatten()
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    if count == 0:
        return chosen.view_as(scores)
    threshold = torch.kthvalue(flat, count).values
    chosen = flat < threshold
    ties = torch.nonzero(flat == threshold).flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.view_as(scores)


def magnitude_masks(
    weights: list[Tensor],  # any shapes
    masks: list[Tensor],  # bool, same shapes: what is kept so far
    sparsity: float,
    scope: str,
) -> list[Tensor]:
    """The masks of the largest magnitudes, nested in the present ones.

    Args:
        sparsity: share of weights to zero, counted over all of them ("global") or in each tensor ("tensor").
        scope: "global" compares all weights with each other, "tensor" those of one tensor.
    """
    scores = [torch.where(mask, weight.abs(), -1.0) for weight, mask in zip(weights, masks, strict=True)]
    if scope == "tensor":
        return [~smallest(score, _cut(sparsity, [mask])) for score, mask in zip(scores, masks, strict=True)]
    flat = torch.cat([score.flatten() for score in scores])
    kept = ~smallest(flat, _cut(sparsity, masks))
    pieces = kept.split([score.numel() for score in scores])
    return [piece.view_as(score) for piece, score in zip(pieces, scores, strict=True)]


@dataclass(frozen=True, kw_only=True)
class MagnitudePruning(Method):
    """Zero the smallest weights while the rest trains on.

    Attributes:
        sparsity: share of the selected weights that is zero at the end, in [0, 1).
        scope: "global" or "tensor".
        schedule: "one_shot", "cubic" or "geometric"; `end` says when it is done.
    """

    sparsity: float = 0.5
    scope: str = "tensor"
    schedule: str = "cubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("sparsity", self.sparsity, 0, 0.999)
        check_choice("scope", self.scope, ("global", "tensor"))
        check_choice("schedule", self.schedule, SCHEDULES)

    def check(self, facts: Facts) -> Facts:
        """Anything dense or already pruned can be pruned (further)."""
        return replace(super().check(facts), pruned=True)

    def prepare(self, model: PreTrainedModel, context: Context) -> PreTrainedModel:
        """Give every selected weight a mask; one that an earlier stage left is taken over."""
        for target in targets(model, context.family, self.select):
            mask = attached(target.modules[0], Mask)
            if mask is None:
                mask = Mask(target.weight)
                attach(target, mask)
            mask.owner = self.name
        return model

    def step(self, model: PreTrainedModel, progress: float) -> None:
        """Cut to the sparsity that the schedule asks for now."""
        if self.rounds == 1:
            progress = math.ceil(round(progress * UPDATES, 6)) / UPDATES
        sparsity = sparsity_at(progress, self.sparsity, self.schedule)
        weights, masks = self._pool(model)
        kept = [mask.mask for mask in masks]
        groups = [[mask] for mask in kept] if self.scope == "tensor" else [kept]
        if all(_cut(sparsity, group) == _zeros(group) for group in groups):
            return
        for mask, new in zip(masks, magnitude_masks(weights, kept, sparsity, self.scope), strict=True):
            if not bool(new.any()):
                raise UserError(
                    f"method.prune.sparsity: {self.sparsity} with scope={self.scope} prunes a whole tensor to nothing; "
                    "lower it, or set method.prune.scope=tensor"
                )
            mask.mask.copy_(new)

    def curves(self, model: PreTrainedModel) -> dict[str, float]:
        """The sparsity reached, over the selected weights."""
        masks = [mask.mask for mask in self._pool(model)[1]]
        return {"sparsity": 1.0 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)}

    def _pool(self, model: PreTrainedModel) -> tuple[list[Tensor], list[Mask]]:
        pairs: dict[int, tuple[Tensor, Mask]] = {}
        for module in parametrized(model):
            mask = attached(module, Mask)
            if mask is not None and mask.owner == self.name:
                pairs[id(mask)] = (original(module).detach(), mask)
        return [weight for weight, _ in pairs.values()], [mask for _, mask in pairs.values()]


def _zeros(masks: list[Tensor]) -> int:
    return sum(mask.numel() - int(mask.sum()) for mask in masks)


def _cut(sparsity: float, masks: list[Tensor]) -> int:
    """How many weights of a group are to be zero: never fewer than are."""
    return max(round(sparsity * sum(mask.numel() for mask in masks)), _zeros(masks))

"""Which weights go first: exactly as many as asked for, compared globally, in each tensor, or in each output row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compress_exp.models.finite import nonfinite

SCOPES = ("global", "tensor", "row")


class NoOrder(ValueError):
    """Scores that are not finite rank nothing.

    Attributes:
        index: the first tensor that holds one, in the order in which they were given.
    """

    def __init__(self, told: str, index: int = 0) -> None:
        super().__init__(f"scores are not finite, {told}; lower train.learning_rate, here or in what came before")
        self.index = index


def check_scores(scores: Sequence[Tensor]) -> None:
    """Require numbers that can be compared.

    Raises:
        NoOrder: one is NaN or infinite.
    """
    for index, score in enumerate(scores):
        if (told := nonfinite(score)) is not None:
            raise NoOrder(told, index)


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


def smallest_of_rows(
    scores: Tensor,  # (rows, n)
    counts: Tensor,  # int64 (rows,)
) -> Tensor:  # bool (rows, n)
    """Mark in each row exactly as many of the smallest scores as asked for, ties by index."""
    order = scores.argsort(dim=1, stable=True)
    chosen = torch.arange(scores.shape[1], device=scores.device) < counts.unsqueeze(1)
    return torch.zeros_like(chosen).scatter(1, order, chosen)


def ranked_masks(
    scores: Sequence[Tensor],  # (out, in) each; any shapes unless scope is "row"
    kept: Sequence[Tensor],  # bool, same shapes: what may still be kept
    sparsity: float,
    scope: str,
) -> list[Tensor]:
    """The masks of the largest scores, nested in the present ones.

    Args:
        scores: what is ranked; the smallest go first.
        kept: an entry that is False stays masked, and counts.
        sparsity: the share to mask, k = round(s·n) of each tensor or of all, but never fewer than are masked.
        scope: "global" compares all entries with each other, "tensor" those of one tensor, "row" those of one output;
            where k is no multiple of the rows, the first rows lose one entry more than the others.

    Raises:
        NoOrder: a score is not finite.
    """
    check_scores(scores)
    ranks = [torch.where(mask, score, -torch.inf) for mask, score in zip(kept, scores, strict=True)]
    if scope == "row":
        return [~_rows(rank, mask, sparsity) for rank, mask in zip(ranks, kept, strict=True)]
    if scope == "tensor":
        return [~smallest(rank, zeros_wanted(sparsity, [mask])) for rank, mask in zip(ranks, kept, strict=True)]
    flat = torch.cat([rank.flatten() for rank in ranks])
    pieces = (~smallest(flat, zeros_wanted(sparsity, kept))).split([rank.numel() for rank in ranks])
    return [piece.view_as(rank) for piece, rank in zip(pieces, ranks, strict=True)]


def _rows(rank: Tensor, kept: Tensor, sparsity: float) -> Tensor:
    each, more = divmod(round(sparsity * rank.numel()), len(rank))
    wanted = torch.full((len(rank),), each, device=rank.device)
    wanted[:more] += 1
    return smallest_of_rows(rank, wanted.maximum(rank.shape[1] - kept.sum(1)))


def ranked_groups(
    scores: Sequence[Tensor],  # (groups,) of each tensor
    kept: Sequence[Tensor],  # (groups,): weights of each group that may still be kept
    sizes: Sequence[int],  # weights of each tensor
    sparsity: float,
    scope: str,
) -> list[Tensor]:  # bool (groups,) of each tensor
    """Which groups of weights stay when those of smallest score go together, as near to k = round(s·n) as they add up.

    Args:
        scores: one for each group; among equal ones the lowest index goes first.
        kept: a group that has lost all its weights stays away, and counts.
        sizes: with what is lost already.
        sparsity: the share of the weights to mask.
        scope: "global" compares all groups, "tensor" those of one tensor; what one tensor misses for want of smaller
            groups the next makes up for, but what one had lost beyond its share is not given back to another.

    Raises:
        NoOrder: a score is not finite.
    """
    check_scores(scores)
    if scope == "global":
        joined = _groups(torch.cat(list(scores)), torch.cat(list(kept)), sparsity * sum(sizes) - _lost(kept, sizes))
        return list(joined.split([len(score) for score in scores]))
    masks: list[Tensor] = []
    left = 0.0
    for score, own, size in zip(scores, kept, sizes, strict=True):
        left += max(0.0, sparsity * size - _lost([own], [size]))
        masks.append(_groups(score, own, left))
        left -= float(own[~masks[-1]].sum())
    return masks


def _lost(kept: Sequence[Tensor], sizes: Sequence[int]) -> float:
    return sum(sizes) - sum(float(own.sum()) for own in kept)


def _groups(scores: Tensor, kept: Tensor, wanted: float) -> Tensor:
    """Keep all but the groups of smallest score whose weights add up to what is nearest to `wanted`."""
    order = torch.where(kept > 0, scores, -torch.inf).argsort(stable=True)
    gone = torch.cat([kept.new_zeros(1), kept[order].cumsum(0)])
    last = int((gone.double() - wanted).abs().argmin())
    mask = kept > 0
    mask[order[:last]] = False
    return mask


def zeros_of(masks: Sequence[Tensor]) -> int:
    """How many entries are masked."""
    return sum(mask.numel() - int(mask.sum()) for mask in masks)


def zeros_wanted(sparsity: float, masks: Sequence[Tensor]) -> int:
    """How many entries of some tensors are to be masked: never fewer than are."""
    return max(round(sparsity * sum(mask.numel() for mask in masks)), zeros_of(masks))

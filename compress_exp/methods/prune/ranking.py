"""Which weights go first: exactly as many as asked for, compared globally, in each tensor, or in each output row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SCOPES = ("global", "tensor", "row")


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
        sparsity: the share to mask, k = round(s·n) of each group, but never fewer than are masked.
        scope: "global" compares all entries with each other, "tensor" those of one tensor, "row" those of one output.
    """
    ranks = [torch.where(mask, score, -torch.inf) for mask, score in zip(kept, scores, strict=True)]
    if scope == "row":
        return [~_rows(rank, mask, sparsity) for rank, mask in zip(ranks, kept, strict=True)]
    if scope == "tensor":
        return [~smallest(rank, cut(sparsity, [mask])) for rank, mask in zip(ranks, kept, strict=True)]
    flat = torch.cat([rank.flatten() for rank in ranks])
    pieces = (~smallest(flat, cut(sparsity, kept))).split([rank.numel() for rank in ranks])
    return [piece.view_as(rank) for piece, rank in zip(pieces, ranks, strict=True)]


def _rows(rank: Tensor, kept: Tensor, sparsity: float) -> Tensor:
    zeros = rank.shape[1] - kept.sum(1)
    return smallest_of_rows(rank, zeros.clamp(min=round(sparsity * rank.shape[1])))


def zeros_of(masks: Sequence[Tensor]) -> int:
    """How many entries are masked."""
    return sum(mask.numel() - int(mask.sum()) for mask in masks)


def cut(sparsity: float, masks: Sequence[Tensor]) -> int:
    """How many entries of a group are to be masked: never fewer than are."""
    return max(round(sparsity * sum(mask.numel() for mask in masks)), zeros_of(masks))

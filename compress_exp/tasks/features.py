"""Small pure helpers of all kinds of task: lengths, batches, padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from compress_exp.models.families.base import family_of
from compress_exp.tasks.files import Row
from compress_exp.tasks.formulas import Array

Item = TypeVar("Item")


def fitting_length(max_length: int, config: Any) -> int:
    """The task's length, or the model's where that is shorter."""
    positions = family_of(config.model_type).positions(config)
    return max_length if positions is None else min(max_length, positions)


def length_batches(features: Sequence[Row], size: int) -> list[list[int]]:
    """Indices in batches of similar length, the longest first, so that little is padded."""
    order = sorted(range(len(features)), key=lambda index: -len(features[index]["input_ids"]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def track(items: Sequence[Item], description: str, progress: bool) -> Iterable[Item]:
    """The items, with a progress bar on the error stream if wanted."""
    if not progress:
        return items
    from rich.console import Console
    from rich.progress import track as bar

    return bar(items, description, console=Console(stderr=True), transient=True)


def mean_kl(baseline: Array, own: Array) -> float:
    """Mean KL(baseline ‖ own) in nats of logits (N, classes)."""
    log_baseline, log_own = (torch.from_numpy(logits).float().log_softmax(-1) for logits in (baseline, own))
    divergence: Callable[..., Tensor] = torch.nn.functional.kl_div
    # Rounding can make it less than zero; NaN in the first place stays NaN.
    return max(divergence(log_own, log_baseline, reduction="batchmean", log_target=True).item(), 0.0)


def pad(values: Sequence[list[int]], fill: int) -> Tensor:
    """A tensor of rows as long as the longest of them."""
    padded = torch.full((len(values), max(map(len, values))), fill, dtype=torch.long)
    for row, value in zip(padded, values, strict=True):
        row[: len(value)] = torch.tensor(value, dtype=torch.long)
    return padded

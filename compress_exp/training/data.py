"""Batches in an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress_exp.models.forward import FEATURES
from compress_exp.parallel.ranks import own_rows

POOL = 50
CALIBRATION_BATCH = 32


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimiser steps of one pass."""
    return math.ceil(rows / batch_size)


def epoch_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int, buckets: bool) -> list[list[int]]:
    """The rows of every batch of one epoch.

    With buckets, rows are shuffled, sorted by length within pools of fifty batches, cut into batches, and the batches
    shuffled: little padding, and still every epoch another order.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    if buckets:
        size = POOL * batch_size
        sizes = np.asarray(lengths)
        pools = [order[start : start + size] for start in range(0, len(order), size)]
        order = np.concatenate([pool[np.argsort(sizes[pool], kind="stable")] for pool in pools])
    batches = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
    if buckets:
        batches = [batches[index] for index in random.permutation(len(batches))]
    return batches


class Batches:
    """This rank's batches of a whole training from some step on, collated as they are asked for.

    Args:
        features: tokenized rows.
        collate: a list of rows -> tensors.
        batch_size: rows per step.
        seed: of the order.
        buckets: group rows of similar length.
        total: steps of the training.
        start: the first step that is wanted; earlier ones were done before.
    """

    def __init__(
        self,
        features: Sequence[dict[str, Any]],
        collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        batch_size: int,
        seed: int,
        buckets: bool,
        total: int,
        start: int = 0,
    ) -> None:
        self.features, self.collate, self.batch_size = features, collate, batch_size
        self.seed, self.buckets, self.total, self.start = seed, buckets, total, start
        self.lengths = [len(row["input_ids"]) for row in features]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Collated batches of the steps start … total − 1, with the numbers of their features."""
        per_epoch = steps_per_epoch(len(self.features), self.batch_size)
        for epoch in range(self.start // per_epoch, math.ceil(self.total / per_epoch)):
            order = epoch_order(self.lengths, self.batch_size, self.seed, epoch, self.buckets)
            first = max(0, self.start - epoch * per_epoch)
            last = min(per_epoch, self.total - epoch * per_epoch)
            for rows in order[first:last]:
                yield own_rows(self.collate([self.features[row] for row in rows]) | {FEATURES: torch.tensor(rows)})


def calibration_batches(
    features: Sequence[dict[str, Any]],
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    seed: int,
    count: int,
) -> list[dict[str, Tensor]]:
    """This rank's part of the first batches of 32 of a seeded order of the training rows, grouped by length."""
    there = steps_per_epoch(len(features), CALIBRATION_BATCH)
    batches = Batches(features, collate, CALIBRATION_BATCH, seed, True, min(count, there))
    return [{name: tensor for name, tensor in batch.items() if name != FEATURES} for batch in batches]

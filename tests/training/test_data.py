from __future__ import annotations

import numpy as np
import pytest
import torch

from compress_exp.training.data import Batches, calibration_batches, epoch_order, steps_per_epoch

LENGTHS = np.random.default_rng(0).integers(3, 60, size=1000).tolist()
FEATURES = [{"input_ids": [index] * length} for index, length in enumerate(LENGTHS)]


def collate(rows):
    return {"ids": torch.tensor([row["input_ids"][0] for row in rows])}


@pytest.mark.parametrize("buckets", [True, False])
def test_every_row_comes_once_an_epoch_in_an_order_of_seed_and_epoch_alone(buckets):
    order = epoch_order(LENGTHS, 16, 3, 1, buckets)
    assert sorted(row for rows in order for row in rows) == list(range(1000))
    assert order == epoch_order(LENGTHS, 16, 3, 1, buckets)
    assert order != epoch_order(LENGTHS, 16, 3, 2, buckets)
    assert order != epoch_order(LENGTHS, 16, 4, 1, buckets)
    assert len(order) == steps_per_epoch(1000, 16) == 63


def test_buckets_pad_little():
    def padded(order):
        return sum(len(rows) * max(LENGTHS[row] for row in rows) for rows in order)

    assert padded(epoch_order(LENGTHS, 16, 0, 0, True)) < 1.1 * sum(LENGTHS)
    assert padded(epoch_order(LENGTHS, 16, 0, 0, False)) > 1.5 * sum(LENGTHS)


@pytest.mark.parametrize("start", [0, 1, 62, 63, 64, 99])
def test_a_later_start_gives_the_rest_of_the_same_batches(start):
    def rows(first):
        batches = Batches(FEATURES, collate, 16, 5, True, 100, first)
        return [batch["ids"].tolist() for batch in batches]

    everything = rows(0)
    assert len(everything) == 100
    assert rows(start) == everything[start:]


def test_calibration_is_seeded_and_never_more_than_there_is():
    first = calibration_batches(FEATURES, collate, 0, 3)
    assert [batch["ids"].tolist() for batch in first] == [
        batch["ids"].tolist() for batch in calibration_batches(FEATURES, collate, 0, 3)
    ]
    assert len(calibration_batches(FEATURES[:40], collate, 0, 8)) == 2

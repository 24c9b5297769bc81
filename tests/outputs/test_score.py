"""The golden values are the table of the study named in methods.md 8.1 (SST-2), A as a fraction and all weights 1."""

from __future__ import annotations

import math

import pytest

from compress_exp.outputs.score import combine, unit_quality, weighted_score

ONES = {"accuracy": 1.0, "compression": 1.0, "speed": 1.0}


def study(accuracy: float, megabytes: float, base_megabytes: float, speed: float) -> float | None:
    return combine(accuracy / 100, base_megabytes / megabytes, speed, ONES)


@pytest.mark.parametrize(
    ("accuracy", "megabytes", "speed", "score"),
    [
        (92.75, 154.32, 1.0, 2.9275),
        (91.90, 66.75, 1.84, 5.0709),
        (90.33, 97.62, 1.37, 3.8541),
        (92.44, 129.84, 1.13, 3.2429),
    ],
)
def test_the_bert_rows_of_the_study(accuracy: float, megabytes: float, speed: float, score: float) -> None:
    assert study(accuracy, megabytes, 154.32, speed) == pytest.approx(score, abs=5e-4)


def test_the_dense_model_scores_its_accuracy_and_the_two_weights() -> None:
    weights = {"accuracy": 2.0, "compression": 3.0, "speed": 5.0}
    assert combine(0.9, 1.0, 1.0, weights) == pytest.approx(2 * 0.9 + 3 + 5)


def test_it_is_linear_in_each_weight() -> None:
    for name in ONES:
        once, twice, thrice = (combine(0.9, 4.0, 2.0, ONES | {name: weight}) for weight in (1.0, 2.0, 3.0))
        assert once is not None and twice is not None and thrice is not None
        assert thrice - twice == pytest.approx(twice - once)


def test_percentages_and_perplexity_come_to_the_unit_interval() -> None:
    assert unit_quality("bleu", 37.5, 40.0, True) == 0.375
    assert unit_quality("rougeLsum", 41.0, 40.0, True) == pytest.approx(0.41)
    assert unit_quality("accuracy", 0.93, 0.95, True) == 0.93
    assert unit_quality("perplexity", 30.0, 24.0, False) == 0.8
    assert unit_quality("perplexity", 30.0, None, False) is None
    assert unit_quality("perplexity", None, 24.0, False) is None


def test_a_missing_part_leaves_no_score_unless_it_does_not_count() -> None:
    assert combine(0.9, 4.0, None, ONES) is None
    assert combine(math.nan, 4.0, 2.0, ONES) is None
    assert combine(0.9, 4.0, None, ONES | {"speed": 0.0}) == pytest.approx(4.9)


def test_the_block_of_a_record() -> None:
    quality = {
        "primary": {"name": "bleu", "value": 30.0, "higher_is_better": True},
        "baseline": {"bleu": 32.0},
    }
    latency = {"rows": [{"speedup": 1.5}, {"speedup": 9.0}]}
    block = weighted_score({"quality": quality, "size": {"compression_ratio": 4.0}, "latency": latency}, ONES)
    assert block == {"A": 0.3, "CR": 4.0, "IS": 1.5, "WS": 5.8, "weights": ONES}

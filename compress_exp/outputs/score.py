"""The weighted score WS = w_A·A + w_CR·CR + w_IS·IS of one record.

A is the primary metric on [0, 1] (percentages / 100, perplexity as baseline / own), CR the compression ratio and IS the
speed-up of the headline latency row. With A in per cent the sum would be little else than A.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PERCENTAGES = ("bleu", "rouge")


def unit_quality(name: str, value: float | None, baseline: float | None, higher_is_better: bool) -> float | None:
    """The primary metric on [0, 1]; None where it is undefined or has no place there."""
    if value is None:
        return None
    if not higher_is_better:
        return baseline / value if baseline is not None and value > 0 else None
    return value / 100 if name.startswith(PERCENTAGES) else value


def combine(
    accuracy: float | None, compression: float | None, speed: float | None, weights: Mapping[str, float]
) -> float | None:
    """WS; None if a part that counts is missing or not a finite number.

    Args:
        accuracy: A, on [0, 1].
        compression: CR, bytes of the baseline's artifact / bytes of this one.
        speed: IS, the baseline's time / this one's.
        weights: keys accuracy, compression, speed.
    """
    parts = {"accuracy": accuracy, "compression": compression, "speed": speed}
    total = 0.0
    for name, value in parts.items():
        if weights[name] == 0:
            continue
        if value is None or not math.isfinite(value):
            return None
        total += weights[name] * value
    return total


def weighted_score(record: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, Any]:
    """The record's block `score`: A, CR, IS, their weights and WS.

    Args:
        record: with the blocks quality, size and latency.
        weights: keys accuracy, compression, speed.
    """
    quality, rows = record["quality"], record["latency"]["rows"]
    primary = quality["primary"]
    baseline = quality["baseline"].get(primary["name"])
    accuracy = unit_quality(primary["name"], primary["value"], baseline, primary["higher_is_better"])
    compression, speed = record["size"]["compression_ratio"], rows[0]["speedup"] if rows else None
    score = combine(accuracy, compression, speed, weights)
    return {"WS": score, "A": accuracy, "CR": compression, "IS": speed, "weights": dict(weights)}

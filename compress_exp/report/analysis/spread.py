"""Several seeds as one number: mean and 95 % interval, and whether a difference is more than noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """A number with its 95 % interval.

    Attributes:
        value: the mean; None where nothing was measured.
        low: lower end of the interval, None where it is unknown.
        high: its upper end.
        noise: whether the difference from the dense model may be chance; False also where that is unknown.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    noise: bool = False

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % t-interval of the mean of at least two values."""
    from scipy.special import stdtrit

    middle, count = statistics.fmean(values), len(values)
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * statistics.stdev(values) / math.sqrt(count)
    return middle - half, middle + half


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def of_pairs(pairs: Sequence[tuple[float, float]], single: Spread, dense: Spread) -> Spread:
    """Values over seeds, each beside the dense model's of the same seed.

    Args:
        pairs: (value, the dense model's), one for each seed.
        single: the value of the only seed with its own interval, for where there is one seed.
        dense: the same of the dense model.
    """
    if not pairs:
        return Spread()
    value = statistics.fmean(own for own, _ in pairs)
    if len(pairs) > 1:
        low, high = interval([own for own, _ in pairs])
        below, above = interval([own - base for own, base in pairs])
        return Spread(value, low, high, below <= 0 <= above)
    if single.half is None or dense.half is None:
        return Spread(value)
    far = abs(pairs[0][0] - pairs[0][1])
    return Spread(value, single.low, single.high, far <= math.hypot(single.half, dense.half))


def of_ratios(ratios: Sequence[float], low: float | None, high: float | None) -> Spread:
    """Ratios to the dense model over seeds; they are noise where the interval holds 1.

    Args:
        ratios: one for each seed.
        low: lower end of the only seed's own interval.
        high: its upper end.
    """
    if not ratios:
        return Spread()
    if len(ratios) > 1:
        low, high = interval(ratios)
    if low is None or high is None:
        return Spread(statistics.fmean(ratios))
    return Spread(statistics.fmean(ratios), low, high, low <= 1 <= high)

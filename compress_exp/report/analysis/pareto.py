"""The Pareto front of two numbers."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """Indices of the points that no other beats, by the first number.

    A point beats another if it is no worse in both numbers and better in one; equal points stand side by side.

    Args:
        points: a cost (less is better) and a gain (more is better); a point without either is on no front.
    """
    known = [(cost, -gain, index) for index, (cost, gain) in enumerate(points) if cost is not None and gain is not None]
    kept: list[int] = []
    best: tuple[float, float] | None = None
    for cost, loss, index in sorted(known):
        if best is None or loss < best[1] or (cost, loss) == best:
            kept.append(index)
            best = (cost, loss)
    return kept

"""The course of the learning rate."""

from __future__ import annotations


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """The learning rate's factor: 0 → 1 over the warm-up, then linearly to 0 after the last step."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(1, steps - rising)

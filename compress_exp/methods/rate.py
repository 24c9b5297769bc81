"""The course of the learning rate."""

from __future__ import annotations

from compress_exp.config.train import TrainConfig


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """The learning rate's factor: 0 → 1 over the warm-up, then linearly to 0 after the last step."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / max(1, steps - rising)


def reach(steps: int, budget: TrainConfig) -> float:
    """The sum of a training's learning rates, about how far Adam moves a weight whose gradient keeps its sign."""
    return budget.learning_rate * sum(rate_factor(step, steps, budget.warmup) for step in range(steps))

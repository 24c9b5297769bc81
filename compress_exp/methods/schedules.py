"""How a quantity grows with the progress of a stage."""

from __future__ import annotations

import math

SCHEDULES = ("one_shot", "cubic", "linear", "exponential", "geometric")
DECAY = 5.0


def sparsity_at(progress: float, target: float, schedule: str) -> float:
    """The sparsity that a schedule asks for.

    Args:
        progress: the method's own progress in [0, 1].
        target: the final sparsity s in [0, 1).
        schedule: "one_shot": s at once; "cubic": s·(1 − (1 − p)³) (Zhu & Gupta 2017, arXiv:1710.01878);
            "linear": s·p; "exponential": s·(1 − e^(−5p)) / (1 − e^(−5));
            "geometric": 1 − (1 − s)^p, the same share of what is left each time (Frankle & Carbin 2019,
            arXiv:1803.03635).
    """
    if progress >= 1.0 or (schedule == "one_shot" and progress > 0.0):
        return target
    if schedule == "cubic":
        return target * (1.0 - (1.0 - progress) ** 3)
    if schedule == "linear":
        return target * progress
    if schedule == "exponential":
        return target * math.expm1(-DECAY * progress) / math.expm1(-DECAY)
    if schedule == "geometric":
        return 1.0 - (1.0 - target) ** progress
    return 0.0

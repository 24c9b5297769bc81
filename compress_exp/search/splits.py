"""Which rows a search looks at: trials are evaluated on a holdout of the training rows, its result on validation."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from compress_exp.search.space import Space, has

HOLDOUT = "task.holdout"
EVALUATE_ON = "task.evaluate_on"
SHARE = 0.1


def on_holdout(space: Space, example: DictConfig) -> tuple[Space, str | None]:
    """The space with its trials evaluated on a holdout, and the split that the result is then measured on.

    A share that the user gave is kept. `task.holdout=0` evaluates the trials where `task.evaluate_on` says, and so does
    `task.evaluate_on=holdout`; then nothing is left to measure, and the split is None.

    Args:
        space: as given.
        example: a configuration of it.
    """
    if not has(example, HOLDOUT) or OmegaConf.select(example, EVALUATE_ON) == "holdout":
        return space, None
    given = HOLDOUT in space.fixed or HOLDOUT in space.drawn
    share = example.task.holdout
    if given and not share:
        return space, None
    if not share:
        space = space.fix(HOLDOUT, f"{SHARE}")
    return space.fix(EVALUATE_ON, "holdout"), example.task.evaluate_on or "validation"


def measured_on(overrides: Sequence[str], split: str) -> list[str]:
    """The overrides of a trial with another split evaluated; what is trained on stays the same."""
    return [f"{EVALUATE_ON}={split}" if item.startswith(f"{EVALUATE_ON}=") else item for item in overrides]

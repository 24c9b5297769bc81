"""What a hook of a method is given, without a training around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from compress_exp.methods.context import Context, Work
from compress_exp.models.families.base import family_of


def bare_context(model_type: str, batches: Sequence[dict[str, Tensor]] = ()) -> Context:
    """A context of calibration batches and nothing else."""
    return Context(
        family=family_of(model_type),
        task=None,  # type: ignore[arg-type]
        tokenizer=None,  # type: ignore[arg-type]
        parent_tokenizer=None,  # type: ignore[arg-type]
        steps=3,
        calibration=lambda count: list(batches[:count]),
    )


def at(model: Any, progress: float = 1.0, rate: float = 0.0) -> Work:
    """The moment of a hook: the method's own progress, and the learning rate."""
    return Work(model, bare_context(model.config.model_type), progress, 0, rate)

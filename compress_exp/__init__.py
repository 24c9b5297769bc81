"""Compress transformer language models and measure what was exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(path: Path | str) -> PreTrainedModel:
    """Load an artifact of any method in evaluation mode.

    Args:
        path: a directory under `outputs/artifacts`, or a copy of one.
    """
    from compress_exp.formats import artifact

    return artifact.load(path)

"""Data that needs no file and no network: pure functions of the split's name."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any


@lru_cache(maxsize=16)
def generate(generator: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split of an embedded data set.

    Args:
        generator: a module of this package with `rows(split)`: "reviews", "prose", "translation" or "questions".
        split: "train", "validation" or "test".
    """
    rows: list[dict[str, Any]] = import_module(f"{__name__}.{generator}").rows(split)
    return rows

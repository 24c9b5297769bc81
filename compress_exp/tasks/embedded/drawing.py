"""Drawing that gives the same result in every Python release."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def pick(generator: random.Random, items: Sequence[Item]) -> Item:
    """One of the items, from `random()` alone: the only method promised to keep its numbers."""
    return items[int(generator.random() * len(items))]

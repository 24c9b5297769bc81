"""Seeds that depend on nothing but what they are for."""

from __future__ import annotations

import hashlib


def derived(seed: int, *numbers: int) -> int:
    """A seed in [0, 2⁵⁶) for one of many draws.

    Args:
        seed: the run's.
        numbers: which draw: a step and a rank, or a layer.
    """
    content = hashlib.blake2b(":".join(map(str, (seed, *numbers))).encode(), digest_size=7).digest()
    return int.from_bytes(content, "big")

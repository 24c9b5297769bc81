"""Seeds that depend on nothing but what they are for."""

from __future__ import annotations

import hashlib


def derived(seed: int, *draw: int | str) -> int:
    """A seed in [0, 2⁵⁶) for one of many draws.

    Args:
        seed: the run's.
        draw: which one: a step and a rank, a layer, or the name of what draws.
    """
    content = hashlib.blake2b(":".join(map(str, (seed, *draw))).encode(), digest_size=7).digest()
    return int.from_bytes(content, "big")

"""Energy: joules per 1,000 examples."""

from __future__ import annotations

from typing import Any


def energy() -> dict[str, Any]:
    """The energy block of the record; no counter is read yet, and the record says so."""
    reason = "no energy counter is read by this release"
    return {"joules_per_1000": None, "baseline_joules_per_1000": None, "source": None, "reason": reason}

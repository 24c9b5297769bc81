"""What this CPU can do, as the operating system tells it."""

from __future__ import annotations

import functools
import os
import platform
import sys
from pathlib import Path

VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
DOT_PRODUCT = {"asimddp", "i8mm"}


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets of this CPU by the names that Linux uses; elsewhere what py-cpuinfo finds."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        lines = (line.partition(":") for line in listing.read_text().splitlines())
        return frozenset(
            flag for key, _, flags in lines if key.strip() in ("flags", "Features") for flag in flags.split()
        )
    from cpuinfo import get_cpu_info

    return frozenset(get_cpu_info().get("flags", ()))


def multiplies_integers() -> bool:
    """Whether the CPU has instructions for products of 8-bit integers summed in 32 bits (VNNI, AMX, dot products)."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return True  # every Apple chip has dot products; macOS lists no flags
    return bool(cpu_flags() & (VNNI | DOT_PRODUCT))


def cpu_identity() -> dict[str, str | list[str] | None]:
    """What decides how kernels compute here: the CPU's instructions, and what oneDNN is held to."""
    return {
        "machine": platform.machine(),
        "flags": sorted(cpu_flags()),
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
    }

"""What this CPU can do, as the operating system tells it."""

from __future__ import annotations

import functools
import os
import platform
import sys
from pathlib import Path

LISTING = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
DOT_PRODUCT = {"asimddp", "i8mm"}


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets of this CPU by the names that Linux uses; elsewhere what py-cpuinfo finds."""
    if LISTING.is_file():
        return frozenset(flag for flags in _listed("flags", "Features") for flag in flags.split())
    from cpuinfo import get_cpu_info

    return frozenset(get_cpu_info().get("flags", ()))


@functools.cache
def cpu_name() -> str:
    """What the CPU is called: as Linux lists it where it does, else what py-cpuinfo finds in a second of work."""
    if names := _listed("model name"):
        return names[0]
    from cpuinfo import get_cpu_info

    return str(get_cpu_info().get("brand_raw", platform.processor()))


def _listed(*keys: str) -> list[str]:
    """What Linux lists under any of the keys, core by core; nothing elsewhere."""
    lines = (line.partition(":") for line in LISTING.read_text().splitlines()) if LISTING.is_file() else ()
    return [value.strip() for key, _, value in lines if key.strip() in keys]


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

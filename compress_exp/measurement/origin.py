"""Where a record comes from: package, commit, versions, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compress_exp.measurement.cpu import cpu_flags, cpu_name

LIBRARIES = ("torch", "transformers", "lightning", "datasets", "openvino", "onnxruntime", "hydra-core")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")


@cache
def origin() -> dict[str, Any]:
    """Versions, commit and hardware of this process's host."""
    import torch

    return {
        "compress_exp": version("compress_exp"),
        "commit": _commit(),
        "versions": {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "host": platform.node(),
        "cpu": cpu_name(),
        "cpu_flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _commit() -> str | None:
    """The checkout's commit, "+" behind it if files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

"""Files that are written whole or not at all, and directories that are replaced."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress_exp.config.checks import UserError


def make_outputs(place: str) -> Path:
    """The directory that everything is written to, made and tried.

    Raises:
        UserError: it cannot be written.
    """
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UserError(f"outputs: nothing can be written in {place!r} ({error.strerror})") from error
    return Path(place)


def digest(content: Any) -> str:
    """Sixteen hexadecimal digits that name a JSON-able content; lists keep their order, keys do not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finite(node: Any) -> Any:
    """A copy of plain lists and mappings with None for NaN and infinity, which JSON does not know."""
    if isinstance(node, Mapping):
        return {str(name): finite(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [finite(item) for item in node]
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node


def write_json(path: Path, content: Any) -> None:
    """Write a file that is either the old one or the whole new one, also after a power cut.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("w") as stream:
            json.dump(content, stream, indent=1, allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace_directory(new: Path, name: Path) -> None:
    """Rename a finished directory into place; one already there is set aside first and deleted last."""
    aside = set_aside(name)
    new.stat()  # nothing is set aside for what is gone
    if name.exists():
        shutil.rmtree(aside, ignore_errors=True)
        name.rename(aside)
    new.rename(name)
    shutil.rmtree(aside, ignore_errors=True)


def set_aside(name: Path) -> Path:
    """Where a finished directory is while another takes its name."""
    return name.with_name(f".{name.name}.old")

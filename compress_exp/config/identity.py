"""What decides a result, as plain values: how settings and code become part of an artifact's key.

Keys outlive releases: what a store holds must be found again. So code counts by a pinned name and a version, never by
where it stands, and a setting that came after the first release is left out while it has the value that gives what
was before it.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Collection
from dataclasses import field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PACKAGE = __name__.partition(".")[0]
BEFORE = "before"

Value = TypeVar("Value")


def later(default: Value, before: Value) -> Value:
    """A dataclass's field that keys do not show while it is as if it were not there.

    Args:
        default: of the field.
        before: the value that gives what was before the field; a mutable one is not allowed.
    """
    made: Value = field(default=default, metadata={BEFORE: before})
    return made


def settings(item: DataclassInstance, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass for a key, those that have an identity of their own by it.

    Args:
        item: holds the settings.
        without: names of fields that decide nothing.
    """
    content: dict[str, Any] = {}
    for each in fields(item):
        value = getattr(item, each.name)
        if each.name in without or (BEFORE in each.metadata and value == each.metadata[BEFORE]):
            continue
        content[each.name] = value.identity() if hasattr(value, "identity") else value
    return content


def origin(kind: type) -> dict[str, Any]:
    """Which code decides a result.

    Args:
        kind: a class with `version` and, in this package, a pinned name `origin` of its own.

    Returns:
        The name and version of a class of this package; of a foreign one its name and the digest of its file, so that
        an edited method does not pass for the old one.
    """
    version: int = getattr(kind, "version", 1)
    if kind.__module__.partition(".")[0] == PACKAGE:
        return {"origin": vars(kind)["origin"], "version": version}
    return {"origin": kind.__qualname__, "version": version, "source": _source(kind)}


@cache
def _source(kind: type) -> str:
    """Digest of the file that a class is written in; its name where there is none, as in a notebook."""
    try:
        file = inspect.getsourcefile(kind)
        return hashlib.sha256(Path(file or "").read_bytes()).hexdigest()[:16]
    except (TypeError, OSError):
        return kind.__module__

"""Which artifacts are still needed: by records, by unfinished runs of sweeps, by runs that are going on.

A key is referred to wherever its sixteen digits stand: in a record, in the chain or the overrides of a run
(`teacher=outputs/artifacts/<key>`), in the recipe of an artifact that is needed itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress_exp.lease import holder, lease_file

_KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")


@dataclass(frozen=True)
class References:
    """What refers to artifacts at one moment.

    Attributes:
        needed: keys that something refers to, whether the artifact is there or not.
        used: those that a run which is going on refers to.
        doubts: one sentence for each thing that may refer to artifacts unseen; while there is any, none may go.
    """

    needed: frozenset[str]
    used: frozenset[str]
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class _Content:
    """What a file says: the keys in it, and its JSON (None where it is damaged)."""

    keys: frozenset[str]
    parsed: Any

    @classmethod
    def of(cls, text: str) -> _Content:
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = None
        return cls(frozenset(_KEY.findall(text)), parsed)


class Reader:
    """Reads what refers to artifacts; files that did not change are not read twice.

    Args:
        outputs: the directory of all results.
    """

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs
        self._read: dict[Path, tuple[tuple[int, int], _Content]] = {}

    def references(self) -> References:
        """Everything that refers to artifacts now."""
        doubts: list[str] = []
        wanted: dict[str, set[str]] = {}
        needed: set[str] = set()
        for member in self._members(doubts):
            keys = set(_KEY.findall(json.dumps(member)))
            if member["name"] is not None:
                wanted.setdefault(member["name"], set()).update(keys)
            if member.get("until") is not None or not self._recorded(member["name"]):
                needed |= keys
        used: set[str] = set()
        for directory in directories(self.outputs / "runs"):
            record = self._content(directory / "record.json")
            if record is not None:
                needed |= record.keys
                if not isinstance(record.parsed, dict):
                    doubts.append(f"{directory / 'record.json'} is damaged; repeat its command or delete it")
            if lease_file(directory).exists() and (owner := holder(directory)) is not None and owner.alive:
                used |= wanted.get(directory.name, set()) | (record.keys if record is not None else set())
                if directory.name not in wanted and record is None:
                    doubts.append(f"{directory.name} is going on ({owner}) and says nowhere what it needs")
        return References(frozenset(self._closed(needed | used)), frozenset(self._closed(used)), tuple(doubts))

    def _members(self, doubts: list[str]) -> Iterator[dict[str, Any]]:
        """The runs that sweeps ask for."""
        for directory in directories(self.outputs / "sweeps"):
            path = directory / "sweep.json"
            content = self._content(path)
            if content is None:
                continue
            members = content.parsed.get("members") if isinstance(content.parsed, dict) else None
            if not isinstance(members, list) or not all(isinstance(m, dict) and "name" in m for m in members):
                doubts.append(f"{path} is damaged; repeat its command or delete it")
                continue
            yield from members

    def _recorded(self, name: str | None) -> bool:
        return name is not None and (self.outputs / "runs" / name / "record.json").exists()

    def _closed(self, keys: set[str]) -> set[str]:
        """The keys with all that their artifacts' recipes refer to."""
        found: set[str] = set()
        open_keys = set(keys)
        while open_keys:
            key = open_keys.pop()
            found.add(key)
            recipe = self._content(self.outputs / "artifacts" / key / "recipe.json")
            open_keys |= recipe.keys - found if recipe is not None else set()
        return found

    def _content(self, path: Path) -> _Content | None:
        try:
            status = path.stat()
            stamp = status.st_mtime_ns, status.st_size
            if path not in self._read or self._read[path][0] != stamp:
                self._read[path] = stamp, _Content.of(path.read_text(errors="replace"))
            return self._read[path][1]
        except (FileNotFoundError, NotADirectoryError):
            return None


def directories(place: Path) -> list[Path]:
    """The directories in a directory, in order, without hidden ones and symbolic links; none where it is a link."""
    if place.is_symlink() or not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.name[:1] != "." and path.is_dir() and not path.is_symlink())

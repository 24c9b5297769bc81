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

from compress_exp.outputs.lease import holder, lease_file
from compress_exp.status.sweeps import lives

_KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")


@dataclass(frozen=True)
class References:
    """What refers to artifacts at one moment.

    Attributes:
        needed: keys that something refers to, whether the artifact is there or not.
        used: those that a run which is going on refers to.
        wanted: those that an unfinished run of a sweep refers to.
        awaited: those of them whose sweep is going on; it starts such a run again.
        doubts: one sentence for each thing that may refer to artifacts unseen; while there is any, none may go.
    """

    needed: frozenset[str]
    used: frozenset[str]
    wanted: frozenset[str]
    awaited: frozenset[str]
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
        chains: dict[str, set[str]] = {}
        wanted: set[str] = set()
        awaited: set[str] = set()
        for member, alive in self._members(doubts):
            keys = set(_KEY.findall(json.dumps(member)))
            if member["name"] is not None:
                chains.setdefault(member["name"], set()).update(keys)
            if member.get("until") is not None or not self._recorded(member["name"]):
                wanted |= keys
                awaited |= keys if alive else set()
        needed, used = set(wanted), set[str]()
        for directory in directories(self.outputs / "runs"):
            record = self._content(directory / "record.json")
            if record is not None:
                needed |= record.keys
                if not isinstance(record.parsed, dict):
                    doubts.append(f"{directory / 'record.json'} is damaged; repeat its command or delete it")
            status = self._content(directory / "status.json")
            if status is not None:
                needed |= status.keys
            if lease_file(directory).exists() and (owner := holder(directory)) is not None and owner.alive:
                used |= chains.get(directory.name, set())
                for content in filter(None, (record, status)):
                    used |= content.keys
                if directory.name not in chains and record is None and status is None:
                    doubts.append(f"{directory.name} is going on ({owner}) and says nowhere what it needs")
        return References(
            needed=self._closed(needed | used),
            used=self._closed(used),
            wanted=self._closed(wanted),
            awaited=self._closed(awaited),
            doubts=tuple(doubts),
        )

    def _members(self, doubts: list[str]) -> Iterator[tuple[dict[str, Any], bool]]:
        """The runs that sweeps ask for, and whether the sweep is going on."""
        for directory in directories(self.outputs / "sweeps"):
            path = directory / "sweep.json"
            content = self._content(path)
            if content is None:
                continue
            try:
                alive = bool(lives(content.parsed))
                members = [(member, alive) for member in content.parsed["members"] if "name" in member]
            except (KeyError, TypeError, ValueError):
                doubts.append(f"{path} is damaged; repeat its command or delete it")
                continue
            yield from members

    def _recorded(self, name: str | None) -> bool:
        return name is not None and (self.outputs / "runs" / name / "record.json").exists()

    def _closed(self, keys: set[str]) -> frozenset[str]:
        """The keys with all that their artifacts' recipes refer to."""
        found: set[str] = set()
        open_keys = set(keys)
        while open_keys:
            key = open_keys.pop()
            found.add(key)
            recipe = self._content(self.outputs / "artifacts" / key / "recipe.json")
            open_keys |= recipe.keys - found if recipe is not None else set()
        return frozenset(found)

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

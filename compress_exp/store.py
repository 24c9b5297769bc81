"""Content-addressed artifacts: built once, published by rename, never trusted blindly."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

log = logging.getLogger("compress_exp")


def digest(content: Any) -> str:
    """Sixteen hexadecimal digits that name a JSON-able content; lists keep their order, keys do not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, content: Any) -> None:
    """Write a file that is either the old one or the whole new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to a path; others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


def replace_directory(new: Path, name: Path) -> None:
    """Rename a finished directory into place; one already there is set aside first and deleted last."""
    aside = _aside(name)
    if name.exists():
        shutil.rmtree(aside, ignore_errors=True)
        name.rename(aside)
    new.rename(name)
    shutil.rmtree(aside, ignore_errors=True)


def _finish_renaming(partial: Path, path: Path) -> None:
    """Do what a kill between the last file and the last rename left undone."""
    if (partial / "build.json").exists() and damage(partial) is None:
        replace_directory(partial, path)
    (partial / "build.json").unlink(missing_ok=True)
    if not path.exists() and _aside(path).exists():
        _aside(path).rename(path)


def _aside(name: Path) -> Path:
    return name.with_name(f".{name.name}.old")


@dataclass(frozen=True)
class Store:
    """The artifacts under `outputs/artifacts`, one directory per recipe.

    Attributes:
        root: the directory of all artifacts.
    """

    root: Path

    def path(self, recipe: dict[str, Any]) -> Path:
        """Where the artifact of a recipe is, or will be."""
        return self.root / digest(recipe)

    def find(self, recipe: dict[str, Any]) -> Path | None:
        """The finished, whole artifact of a recipe, or None."""
        path = self.path(recipe)
        return next((place for place in (path, _aside(path)) if place.exists() and damage(place) is None), None)

    def get(
        self, recipe: dict[str, Any], build: Callable[[Path], dict[str, Any]], label: str, newer_than: float = 0.0
    ) -> Path:
        """The artifact of a recipe, built by `build(directory)` if it is not there.

        Args:
            recipe: all that decides the artifact, JSON-able; its hash is the name.
            build: fills an empty or half-filled directory (a killed build's, with its checkpoint) and returns facts
                about the build for build.json.
            label: what the log calls it.
            newer_than: build a finished one again that was finished before this time (`force=all`).
        """
        path = self.path(recipe)
        partial = path.with_name(f"{path.name}.partial")
        with locked(path):
            _finish_renaming(partial, path)
            if path.exists():
                broken = damage(path)
                if broken is None and (path / "build.json").stat().st_mtime >= newer_than:
                    _say_release(path, label)
                    return path
                if broken is not None:
                    log.warning("%s: %s in %s; building it again", label, broken, path)
            partial.mkdir(parents=True, exist_ok=True)
            facts = build(partial)
            write_json(partial / "recipe.json", recipe)
            files = sorted(file for file in partial.rglob("*") if file.is_file() and file.name != "build.json")
            facts |= {"files": {str(file.relative_to(partial)): file.stat().st_size for file in files}}
            write_json(partial / "build.json", facts | {"compress_exp": version("compress_exp")})
            replace_directory(partial, path)
        return path


def damage(path: Path) -> str | None:
    """What is wrong with a finished artifact, in a few words; None when every file has the size it was written with."""
    try:
        files = json.loads((path / "build.json").read_text())["files"]
        for name, size in files.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if (path / name).stat().st_size != size:
                return f"{name} is truncated"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "build.json is missing or unreadable"
    return None


def _say_release(path: Path, label: str) -> None:
    made = json.loads((path / "build.json").read_text()).get("compress_exp")
    if made != version("compress_exp"):
        log.info("%s: reusing %s, made by release %s", label, path, made)

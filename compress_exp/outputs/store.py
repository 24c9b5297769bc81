"""Content-addressed artifacts: built once, published by rename, never trusted blindly.

Every builder fills a directory of its own, `<key>.partial-<token>`. Whoever takes over a dead or frozen builder's lease
takes its `state` (checkpoints, which are whole because they are renamed into place) into a directory of its own, so
that a builder that wakes up later writes into nothing that anyone reads.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compress_exp.outputs.files import digest, replace_directory, set_aside, write_json
from compress_exp.outputs.lease import SECONDS, job_id, leased

log = logging.getLogger("compress_exp")

STATE = "state"
Build = Callable[[Path, Callable[[], None]], dict[str, Any]]


@dataclass(frozen=True)
class Store:
    """The artifacts under `outputs/artifacts`, one directory per recipe.

    Attributes:
        root: the directory of all artifacts.
        lease_seconds: after which a silent builder is superseded.
    """

    root: Path
    lease_seconds: float = SECONDS

    def path(self, recipe: dict[str, Any]) -> Path:
        """Where the artifact of a recipe is, or will be."""
        return self.root / digest(recipe)

    def find(self, key: str) -> Path | None:
        """The finished, whole artifact of a key (the digest of its recipe), or None."""
        path = self.root / key
        return next((place for place in (path, set_aside(path)) if place.exists() and damage(place) is None), None)

    def get(self, recipe: dict[str, Any], build: Build, label: str, newer_than: float = 0.0) -> Path:
        """The artifact of a recipe, built if it is not there.

        Args:
            recipe: all that decides the artifact, JSON-able; its hash is the name.
            build: `build(directory, check)` fills a directory and returns facts for build.json; what it needs to go on
                after a kill it keeps in `directory / STATE`, each file renamed into place. `check()` raises `LeaseLost`
                once another process took over, which ends the build.
            label: what the log calls it.
            newer_than: build a finished one again that was finished before this time (`force=all`).
        """
        path = self.path(recipe)
        while True:
            with leased(path, self.lease_seconds, label) as lease:
                self._finish_renaming(path)
                if self._usable(path, label, newer_than):
                    for left in partials(path):
                        shutil.rmtree(left, ignore_errors=True)
                    return path
                partial = _take_over(path, lease.token)
                try:
                    facts = build(partial, lease.check)
                    shutil.rmtree(partial / STATE, ignore_errors=True)
                    _seal(partial, recipe, facts)
                    lease.check()
                    replace_directory(partial, path)
                    self._note(path, label, facts)
                    return path
                except Exception:
                    if not lease.lost:
                        raise
                    log.warning("%s: another process took over; its own copy is discarded", label)

    def _usable(self, path: Path, label: str, newer_than: float) -> bool:
        if not path.exists():
            return False
        if (broken := damage(path)) is not None:
            log.warning("%s: %s in %s; building it again", label, broken, path)
            return False
        if (path / "build.json").stat().st_mtime < newer_than:
            return False
        _say_release(path, label)
        return True

    def _finish_renaming(self, path: Path) -> None:
        """Do what a kill between the last file and the last rename left undone."""
        for partial in partials(path):
            if (partial / "build.json").exists() and damage(partial) is None:
                replace_directory(partial, path)
                self._note(path, "finished by its successor", {})
        if not path.exists() and set_aside(path).exists():
            set_aside(path).rename(path)

    def _note(self, path: Path, label: str, facts: dict[str, Any]) -> None:
        """One line for each publication: what was built, by whom."""
        line = {"key": path.name, "label": label, "host": platform.node(), "pid": os.getpid(), "job": job_id()}
        line |= {"seconds": facts.get("seconds"), "time": datetime.now(UTC).isoformat(timespec="seconds")}
        try:
            with (self.root / "builds.jsonl").open("a") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:  # what is published is published
            log.warning("%s: %s; builds.jsonl lacks its line", path, error.strerror)


def partials(path: Path) -> list[Path]:
    """The half-built directories of an artifact, the latest first."""
    found = path.parent.glob(f"{path.name}.partial-*")
    return sorted(found, key=lambda place: place.stat().st_mtime if place.exists() else 0.0, reverse=True)


def _take_over(path: Path, token: str) -> Path:
    """A directory of one's own, with the state that the last builder left."""
    left = partials(path)
    own = path.with_name(f"{path.name}.partial-{token[:12]}")
    own.mkdir(parents=True)
    for other in left:
        if (other / STATE).is_dir() and not (own / STATE).exists():
            (other / STATE).rename(own / STATE)
        shutil.rmtree(other, ignore_errors=True)
    (own / STATE).mkdir(exist_ok=True)
    for unfinished in (own / STATE).rglob("*.tmp"):
        unfinished.unlink()
    return own


def _seal(partial: Path, recipe: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write recipe.json, and build.json last: with it the directory is complete."""
    write_json(partial / "recipe.json", recipe)
    files = sorted(file for file in partial.rglob("*") if file.is_file())
    sizes = {str(file.relative_to(partial)): file.stat().st_size for file in files}
    write_json(partial / "build.json", facts | {"files": sizes, "compress_exp": version("compress_exp")})


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

"""What lies in `outputs` and serves nobody any more; finding it changes nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compress_exp.clean.references import References, directories
from compress_exp.outputs.lease import holder
from compress_exp.outputs.store import damage

KEY = re.compile(r"[0-9a-f]{16}")
LEASED = ("artifacts", "evaluations", "runs")
WRITTEN = ("artifacts", "evaluations", "checks", "reports")
REMOVED = ".removed"
TMP_SECONDS = 3600.0


@dataclass(frozen=True)
class Leftover:
    """A file or directory that can go.

    Attributes:
        path: where it is.
        leased: whose lease covers it.
        why: in a few words.
        key: of the artifact it is, or is of; None where nothing can refer to it.
        gone: whether that artifact is not there.
        half: whether it is a build of that artifact that was interrupted.
    """

    path: Path
    leased: Path
    why: str
    key: str | None = None
    gone: bool = False
    half: bool = False

    def free(self, references: References) -> bool:
        """Whether nothing refers to it."""
        if self.key is None:
            return True
        if self.half:
            return self.key not in references.awaited
        return not references.doubts and self.key not in (references.used if self.gone else references.needed)


def leftovers(outputs: Path, references: References) -> list[Leftover]:
    """Everything that can go, without what a live lease covers."""
    found = [*_artifacts(outputs), *_evaluations(outputs), *_halves(outputs, references), *_files(outputs)]
    return [item for item in found if item.free(references) and not _held(item.leased)]


def _held(path: Path) -> bool:
    owner = holder(path)
    return owner is not None and owner.alive


def _artifacts(outputs: Path) -> Iterator[Leftover]:
    """Artifacts, those included that a kill left one rename short of their name."""
    place = outputs / "artifacts"
    for path in directories(place):
        key = path.name.partition(".partial-")[0]
        if KEY.fullmatch(path.name):
            yield Leftover(path, path, "no record refers to it", path.name)
        elif KEY.fullmatch(key) and _complete(path):
            yield Leftover(path, place / key, "no record refers to it", key)
    for path in _hidden(place, ".old"):
        name = path.name[1:].removesuffix(".old")
        if KEY.fullmatch(name) and not (place / name).exists():
            yield Leftover(path, place / name, "no record refers to it", name)


def _evaluations(outputs: Path) -> Iterator[Leftover]:
    """Evaluations and exports of artifacts that are gone, or go."""
    for path in directories(outputs / "evaluations"):
        key = _made_from(path)
        if key is not None and KEY.fullmatch(path.name):
            gone = not (outputs / "artifacts" / key).exists()
            yield Leftover(
                path, path, "its artifact is gone" if gone else "no record refers to its artifact", key, gone
            )


def _halves(outputs: Path, references: References) -> Iterator[Leftover]:
    """Half-built directories, and what was set aside for a successor that is there."""
    places = [outputs / "artifacts", outputs / "evaluations", *directories(outputs / "runs")]
    for place in places:
        whose = place if place.parent == outputs / "runs" else None
        for path in directories(place):
            name, mark, _ = path.name.partition(".partial-")
            if mark and not _complete(path):
                why = "half-built, an unfinished run of a sweep would go on from it"
                why = why if name in references.wanted else "half-built, nobody works on it"
                yield Leftover(path, whose or place / name, why, name, half=True)
        for path in _hidden(place, ".old"):
            name = path.name[1:].removesuffix(".old")
            if (place / name).exists():
                yield Leftover(path, whose or place / name, "set aside, its successor is there")
        for path in _hidden(place, REMOVED):
            name = path.name[1:].removesuffix(REMOVED).removesuffix(".old").partition(".partial-")[0]
            yield Leftover(path, whose or place / name, "an earlier clean was interrupted")
    for path in (*_hidden(outputs / "wandb", ""), *_hidden(outputs / "tensorboard", "")):
        if path.name.startswith(".partial-"):
            run = path.name.removeprefix(".partial-").removesuffix(REMOVED)
            whose = next((own for own in directories(outputs / "runs") if own.name.endswith(f"-{run}")), path)
            yield Leftover(path, whose, "half-written by a tracker, nobody works on it")


def _files(outputs: Path) -> Iterator[Leftover]:
    """Leases of processes that are gone, and files that were never renamed into place."""
    for name in LEASED:
        for path in _hidden(outputs / name, ".lease", files=True):
            yield Leftover(path, path.with_name(path.name[1:].removesuffix(".lease")), "its holder is gone")
    runs, sweeps = directories(outputs / "runs"), directories(outputs / "sweeps")
    for place in (*(outputs / name for name in WRITTEN), *runs, *sweeps):
        for path in _hidden(place, ".tmp", files=True):
            if time.time() - path.lstat().st_mtime > TMP_SECONDS:
                yield Leftover(path, place if place in runs else path, "never renamed into place")


def _made_from(path: Path) -> str | None:
    """The key of the artifact that an evaluation or an export is of; None where it does not say."""
    try:
        key = json.loads((path / "recipe.json").read_text())["artifact"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return key if isinstance(key, str) else None


def _complete(path: Path) -> bool:
    return (path / "build.json").exists() and damage(path) is None


def _hidden(place: Path, suffix: str, files: bool = False) -> list[Path]:
    """Hidden directories (or files) whose names end so; symbolic links are neither."""
    if place.is_symlink() or not place.is_dir():
        return []
    found = [path for path in place.glob(f".*{suffix}") if not path.is_symlink()]
    return sorted(path for path in found if (path.is_file() if files else path.is_dir()))

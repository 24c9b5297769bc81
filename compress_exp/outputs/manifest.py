"""`sweep.json`: the members of a sweep, so that the same command knows its runs without composing each again."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compress_exp.config.build import plain
from compress_exp.config.schema import PACKAGE, SOURCE_CONF
from compress_exp.config.secrecy import HIDDEN, hide, kept
from compress_exp.outputs.command import command
from compress_exp.outputs.files import digest, write_json

SCHEMA = 1
ENVIRONMENT = "environment:"
LIBRARIES = ("torch", "transformers", "datasets", "evaluate", "rouge-score", "sacrebleu")
_ENVIRONMENT = re.compile(r"oc\.env:\s*'?(\w+)")
MISSING, RUNNING, FINISHED, FAILED, REFUSED = "missing", "running", "finished", "failed", "refused"


@dataclass(frozen=True)
class Identity:
    """What a configuration asks for, as far as it must be known to tell whether it is there.

    Attributes:
        run: the run's id.
        name: of the run's directory.
        chain: keys of the baseline and of the stages, in order.
        force: what is to be done again although it is there; None for nothing.
        until: the last stage that is wanted (0: the baseline), None for a measured run.
        every_stage: the record must hold the quality of every stage.
        score: weights of the record's score.
        tracking: the settings of the tracker that is to show it; None for no tracker.
    """

    run: str
    name: str
    chain: tuple[str, ...]
    force: str | None
    until: int | None
    every_stage: bool
    score: Mapping[str, float]
    tracking: Mapping[str, Any] | None = None


@dataclass
class Member:
    """One job of a sweep.

    Attributes:
        overrides: of this job.
        identity: None where it was refused, or where the application knows none.
        state: missing, running, finished, failed or refused.
        reason: one sentence for what failed or was refused.
    """

    overrides: tuple[str, ...]
    identity: Identity | None = None
    state: str = MISSING
    reason: str | None = None

    @property
    def label(self) -> str:
        """Its overrides, as one types them."""
        return " ".join(self.overrides)


def sweep_id(arguments: Sequence[str]) -> str:
    """The sweep's name: what was asked for, in any order; neither launcher nor place."""
    return digest(sorted(arguments))


def sweep_of(outputs: Path, run: str) -> str | None:
    """The id of the sweep that asked for a run last; None if it is in none.

    A sweep writes its members before it launches any, so a job finds its own sweep here whatever launched it.
    """
    files = [(path.stat().st_mtime, path) for path in (outputs / "sweeps").glob("*/sweep.json")]
    for _, path in sorted(files, reverse=True):
        try:
            content = json.loads(path.read_text())
            if any(row["run"] == run for row in content["members"]):
                return str(content["id"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


class Manifest:
    """The file of one sweep.

    Args:
        outputs: the directory of all results.
        arguments: overrides that make the sweep.
        launcher: the name of the launcher, for readers.
        fingerprint: of all that decides run ids beside local paths (see `fingerprint`).
    """

    def __init__(self, outputs: Path, arguments: Sequence[str], launcher: str, fingerprint: str) -> None:
        self.id = sweep_id(arguments)
        self.path = outputs / "sweeps" / self.id / "sweep.json"
        self.fingerprint = fingerprint
        self.head = {
            "schema": SCHEMA,
            "id": self.id,
            "command": command(),
            "launcher": launcher,
            "host": platform.node(),
            "pid": os.getpid(),
            "started": _now(),
        }
        self.watched: dict[str, Any] = {}

    def known(self) -> dict[tuple[str, ...], Identity]:
        """The identities that still hold, by `kept` overrides; none if the configuration or a watched path changed."""
        try:
            content = json.loads(self.path.read_text())
            if content["schema"] != SCHEMA or content["fingerprint"] != self.fingerprint:
                return {}
            if any(_state(thing) != seen for thing, seen in content["watched"].items()):
                return {}
            self.watched = content["watched"]
            rows = [row for row in content["members"] if row["run"] and HIDDEN not in "".join(row["overrides"])]
            return {tuple(row["overrides"]): _identity(row) for row in rows}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def watch(self, config: Any) -> None:
        """Note the local paths, the code from elsewhere and the environment that a configuration depends on."""
        names = _ENVIRONMENT.findall(json.dumps(plain_tree(config)))
        for thing in [*map(str, _paths(config)), *(f"{ENVIRONMENT}{name}" for name in names)]:
            self.watched.setdefault(hide(thing), _state(thing))

    def write(self, members: Iterable[Member]) -> None:
        """Replace the file."""
        nothing = dict.fromkeys(item.name for item in fields(Identity))
        rows = [
            {
                "overrides": kept(member.overrides),
                **(asdict(member.identity) if member.identity else nothing),
                "state": member.state,
                "reason": member.reason and hide(member.reason),
            }
            for member in members
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = self.head | {"updated": _now(), "fingerprint": self.fingerprint, "watched": self.watched}
        write_json(self.path, content | {"members": rows})


def fingerprint(root: Any, sources: Iterable[tuple[str, str]], arguments: Sequence[str]) -> str:
    """A hash of what decides run ids: this code, the configuration files and the defaults of the sweep.

    Args:
        root: the sweep's own configuration.
        sources: Hydra's places of configuration files, each ("file" or "pkg", path).
        arguments: overrides that make the sweep.
    """
    places = [PACKAGE, SOURCE_CONF]
    places += [place for schema, path in sources for place in _directories(schema, path)]
    files = [stamp(place, "**/*") for place in dict.fromkeys(places)]
    return digest([files, [version(name) for name in LIBRARIES], plain_tree(root), sorted(arguments)])


def _directories(schema: str, path: str) -> list[Path]:
    if schema == "file":
        return [Path(path)]
    found = find_spec(path.replace("/", ".")) if schema == "pkg" and path else None
    return [Path(place) for place in (found.submodule_search_locations or [])] if found else []


def _state(thing: str) -> str | None:
    """What a watched path or variable is now; of a variable only a hash."""
    if thing.startswith(ENVIRONMENT):
        value = os.environ.get(thing.removeprefix(ENVIRONMENT))
        return value and digest(value)
    return stamp(Path.home() / thing[2:] if thing.startswith("~/") else Path(thing))


def stamp(path: Path, pattern: str = "*") -> str | None:
    """Size and time of a file, or of the files in a directory; None where there is nothing."""
    if path.is_dir():
        files = sorted(file for file in path.glob(pattern) if file.suffix not in (".pyc", ".md") and file.is_file())
        return digest([[str(file.relative_to(path)), stamp(file)] for file in files])
    try:
        status = path.stat()
    except OSError:
        return None
    return f"{status.st_size}:{status.st_mtime_ns}"


def plain_tree(root: Any) -> Any:
    """A configuration without interpolations resolved and without Hydra's own part."""
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(root, resolve=False)
    return {name: value for name, value in tree.items() if name != "hydra"} if isinstance(tree, dict) else tree


def _paths(config: Any) -> Iterator[Path]:
    """Local files and directories that a configuration names, and the hub's notes of what is in its cache."""
    for key, value in _leaves(plain(config), ""):
        if key == "outputs" or not value:
            continue
        if key.endswith("_target_"):
            module = sys.modules.get(value.rpartition(".")[0])
            file = getattr(module, "__file__", None)
            if file and PACKAGE not in Path(file).parents:
                yield Path(file)
            continue
        if key.endswith("hub"):
            from huggingface_hub.constants import HF_HUB_CACHE

            for kind in ("models", "datasets"):
                yield Path(HF_HUB_CACHE) / f"{kind}--{value.replace('/', '--')}" / "refs"
        elif len(value) < 1000 and Path(value).exists():
            yield Path(value)


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)


def _identity(row: Mapping[str, Any]) -> Identity:
    values = {item.name: row[item.name] for item in fields(Identity)}
    return Identity(**{**values, "chain": tuple(values["chain"])})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

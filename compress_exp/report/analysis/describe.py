"""What a run was, in words that may be shown: its settings, and the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from compress_exp.outputs.records import Record

NOT_SETTINGS = ("seed=", "tracking", "outputs=", "hydra", "plan=", "force=", "lease_seconds=", "until=", "objectives")
HIDDEN = ("method", "origin", "version")


def command(record: Record) -> str:
    """The command line that makes this one run again."""
    run = record["run"]
    words = shlex.split(str(run.get("command") or ""), posix=True) if _splits(run.get("command")) else []
    places = []
    for index, word in enumerate(words):
        if word.startswith("--config-dir=") or (word in ("--config-dir", "-cd") and index + 1 < len(words)):
            places += [word] if "=" in word else words[index : index + 2]
    overrides = [str(item) for item in run.get("overrides") or []]
    return shlex.join(["python", "-m", "compress_exp", *places, *overrides])


def settings(record: Record) -> list[str]:
    """The other settings of a run: what was asked for and is neither its seed nor about where and how it is shown."""
    overrides = [str(item) for item in record["run"].get("overrides") or []]
    return sorted(item for item in overrides if not item.startswith(NOT_SETTINGS))


def methods(record: Record) -> list[Any]:
    """All hyperparameters of each method."""
    origin = record.get("origin")
    found = origin.get("methods") if isinstance(origin, Mapping) else None
    return found if isinstance(found, list) else []


def configuration(record: Record) -> list[str]:
    """One line for each method with all its hyperparameters, after one with the choices of the run."""
    run = record["run"]
    names = run.get("method") if isinstance(run.get("method"), list) else [run.get("method")]
    runtime = run.get("runtime") if isinstance(run.get("runtime"), Mapping) else {}
    chosen = {name: run.get(name) for name in ("model", "task", "loss", "hardware")}
    chosen |= {name: runtime.get(name) for name in ("precision", "threads")}
    lines = [" ".join(pairs(chosen))]
    own = methods(record)
    for index, identity in enumerate(own):
        label = (
            str(names[index]) if len(names) == len(own) else str(_mapping(identity).get("method")).rpartition(".")[2]
        )
        lines.append(f"{label}: {' '.join(pairs(_mapping(identity)))}")
    return lines


def pairs(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """name=value for all that is set, nested ones by their path."""
    for name, value in node.items():
        if not prefix and name in HIDDEN:
            continue
        if isinstance(value, Mapping):
            yield from pairs(value, f"{prefix}{name}.")
        elif value not in (None, [], "", ["*"]):
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{name}={text}"


def _splits(text: Any) -> bool:
    try:
        shlex.split(str(text))
    except ValueError:
        return False
    return True


def _mapping(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else {}

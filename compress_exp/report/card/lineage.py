"""What an artifact is and how it came about: from the recipes of its chain and the records that know their names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress_exp.config.secrecy import clean
from compress_exp.outputs.records import Record
from compress_exp.report.analysis.describe import pairs

TRAIN = "train"


@dataclass(frozen=True)
class Names:
    """What recipes do not know, because it decides nothing.

    Attributes:
        model: how the configuration calls the dense model.
        task: and the task.
        labels: of the stages, by the keys of their artifacts.
        hub: "model" and "dataset" on the Hugging Face hub; None where they are not from there.
    """

    model: str
    task: str
    labels: Mapping[str, str]
    hub: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Sequence[Record]) -> Names:
        """From records, of which there is at least one; equal artifacts may have several names, the first counts."""
        labels: dict[str, str] = {}
        for record in records:
            for row in stages(record):
                labels.setdefault(str(row.get("artifact")), "+".join(map(str, row.get("methods") or ["?"])))
        first = records[0]
        sources = (first.get("origin") or {}).get("sources")
        return cls(str(first["run"].get("model")), str(first["run"].get("task")), labels, sources or {})


@dataclass(frozen=True)
class Step:
    """One stage of the chain, or the baseline.

    Attributes:
        key: of its artifact.
        label: its methods.
        families: of its methods, such as "prune".
        loss: what its training minimised; empty where nothing trained.
        steps: optimiser steps; None where the artifact is gone.
        seconds: that it took.
        settings: name and value of all its hyperparameters, a list for each method.
        budget: of its training, in the same form.
    """

    key: str
    label: str
    families: tuple[str, ...]
    loss: str
    steps: int | None
    seconds: float | None
    settings: tuple[str, ...]
    budget: str

    @property
    def told(self) -> str:
        """All its settings in one line."""
        return "; ".join([*filter(None, self.settings), f"training: {self.budget or 'none'}"])


@dataclass(frozen=True)
class Lineage:
    """The chain from the dense model to an artifact.

    Attributes:
        steps: the dense model first, the artifact last.
        recipe: of the artifact.
        build: what is known of its making.
        config: its config.json.
        source: what the recipe of the dense model says of the weights it started from.
    """

    steps: tuple[Step, ...]
    recipe: Mapping[str, Any]
    build: Mapping[str, Any]
    config: Mapping[str, Any]
    source: Mapping[str, Any]

    @property
    def is_dense(self) -> bool:
        """Whether it is the dense model itself."""
        return self.recipe.get("kind") == "baseline"

    @property
    def packed(self) -> Mapping[str, Any] | None:
        """How its tensors are stored; None for an ordinary checkpoint."""
        return self.config.get("quantization_config")

    @property
    def families(self) -> list[str]:
        """Of all its methods, each once."""
        return list(dict.fromkeys(family for step in self.steps for family in step.families))


def lineage(artifacts: Path, key: str, names: Names) -> Lineage:
    """The chain of an artifact; it ends early where a parent is gone."""
    steps: list[Step] = []
    source: Any = None
    above: str | None = key
    while above is not None and len(steps) < 100:
        recipe = read(artifacts / above / "recipe.json")
        steps.append(_step(above, recipe, read(artifacts / above / "build.json"), names))
        source = recipe.get("model")
        above = recipe.get("parent")
    recipe, build, config = (read(artifacts / key / f"{name}.json") for name in ("recipe", "build", "config"))
    return Lineage(tuple(reversed(steps)), recipe, build, config, source if isinstance(source, Mapping) else {})


def stages(record: Record) -> list[Mapping[str, Any]]:
    """The stages of a record, those that are readable."""
    found = record.get("stages")
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


def read(file: Path) -> dict[str, Any]:
    """A JSON file; nothing where it is missing or damaged."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return clean(content) if isinstance(content, dict) else {}


def _step(key: str, recipe: Mapping[str, Any], build: Mapping[str, Any], names: Names) -> Step:
    own = [method for method in recipe.get("methods") or [] if isinstance(method, Mapping)]
    budgets = [recipe.get(TRAIN)] if recipe.get("kind") == "baseline" else [method.get(TRAIN) for method in own]
    origins = [_origin(method) for method in own]
    losses = _losses(recipe)
    return Step(
        key=key,
        label="dense" if recipe.get("kind") == "baseline" else names.labels.get(key) or "+".join(origins),
        families=tuple(name.partition("/")[0] for name in origins),
        loss=_loss(recipe),
        steps=build.get("steps"),
        seconds=build.get("seconds"),
        settings=tuple(_told({name: value for name, value in method.items() if name != TRAIN}) for method in own)
        + tuple(f"loss: {told}" for loss in losses if (told := _told(loss)))
        + tuple(
            f"recovery: {_told(recovery)}" for recovery in [recipe.get("recovery")] if isinstance(recovery, Mapping)
        ),
        budget="; ".join(_told(budget) for budget in budgets if isinstance(budget, Mapping)),
    )


def _loss(recipe: Mapping[str, Any]) -> str:
    if recipe.get("kind") == "baseline":
        return "task" if recipe.get(TRAIN) else ""
    return ", ".join(map(_origin, _losses(recipe)))


def _losses(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The losses of a stage; recipes of the first version have one."""
    found = recipe.get("losses")
    losses = list(found.values()) if isinstance(found, Mapping) else [recipe.get("loss")]
    return [loss for loss in losses if isinstance(loss, Mapping)]


def _origin(node: Mapping[str, Any]) -> str:
    """The pinned name of a method or loss; recipes of the first version have the class's full name."""
    if "origin" in node:
        return str(node["origin"])
    module = str(node.get("method") or node.get("loss")).rpartition(".")[0]
    return "/".join(part for part in module.split(".") if part not in ("compress_exp", "methods", "losses"))


def _told(node: Mapping[str, Any]) -> str:
    return ", ".join(pairs({name: value for name, value in node.items() if name not in ("loss", "version")}))

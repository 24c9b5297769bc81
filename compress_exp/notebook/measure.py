"""Measuring from Python: an artifact of a store on a hardware profile, beside its baseline."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exp.config.build import build, plain
from compress_exp.config.checks import UserError
from compress_exp.config.compose import compose
from compress_exp.notebook.compress import Compressed, checked, one_sentence, task_arguments

if TYPE_CHECKING:
    from compress_exp.measurement.hardware import Hardware
    from compress_exp.outputs.store import Store
    from compress_exp.tasks.base import Task

log = logging.getLogger("compress_exp")


def measure(
    artifact: Compressed | str | Path,
    baseline: str | Path | None,
    hardware: str,
    task: str | Path | None,
    overrides: Sequence[str],
) -> dict[str, Any]:
    """See `compress_exp.measure`."""
    with one_sentence():
        config = compose(_arguments(artifact, hardware, task, overrides))
        place = Path(artifact.path if isinstance(artifact, Compressed) else artifact).expanduser().resolve()

        from compress_exp.config.secrecy import safe
        from compress_exp.experiment.plan import RECIPE, check_kind
        from compress_exp.measurement.measure import measure as measure_processes
        from compress_exp.models.checkpoint import check_weights, directory_digest
        from compress_exp.models.loading import Model
        from compress_exp.outputs.files import finite
        from compress_exp.outputs.store import Store

        found: Task = build(config.task, "task")
        profile: Hardware = build(config.hardware, "hardware")
        found.check()
        profile.check()
        profile.check_host()
        store = Store(place.parent, config.lease_seconds)
        recipe = _recipe(place)
        parent = place if recipe["kind"] == "baseline" else _parent(store, recipe, place)
        dense = _dense(store, place) if baseline is None else Path(baseline).expanduser().resolve()
        for name, path in (("artifact", place), ("baseline", dense)):
            check_weights(path, name)
            given = Model(name=name, path=str(path))
            check_kind(found, given.family(name))
            given.check_head(found, name)
            given.check_labels(found, name)
        if recipe["recipe"] == RECIPE and recipe["task"] != found.identity():
            log.warning("%s: made for other training data or settings than those of task=%s", place, found.name)
        own = dense.parent == store.root and store.find(dense.name) == dense
        keys = {"artifact": place.name, "baseline": dense.name if own else directory_digest(dense)}
        with tempfile.TemporaryDirectory(prefix="compress_exp-") as deploy:
            blocks = measure_processes(
                artifact=place,
                baseline=dense,
                task_config=plain(config.task),
                hardware_config=plain(config.hardware),
                keys=keys,
                outputs=store.root.parent,
                deploy=Path(deploy),
                parent=parent,
                lease_seconds=config.lease_seconds,
            )
    del blocks["stages"]
    return safe(finite(blocks))


def _arguments(
    artifact: Compressed | str | Path, hardware: str, task: str | Path | None, overrides: Sequence[str]
) -> list[str]:
    for item in checked(overrides):
        if not item.lstrip("+~").startswith(("task.", "hardware.")):
            raise UserError(f"{item}: measuring takes keys of task and hardware only")
    given = list(artifact.overrides) if isinstance(artifact, Compressed) and task is None else []
    if not given:
        if task is None:
            raise UserError("task: name what a path is evaluated on, or give what compress returned")
        given = task_arguments(task)
    return [*(item for item in given if not item.startswith("hardware=")), f"hardware={hardware}", *overrides]


def _recipe(path: Path) -> dict[str, Any]:
    """What an artifact was made from.

    Raises:
        UserError: it is not in a store, or not whole.
    """
    from compress_exp.outputs.files import digest
    from compress_exp.outputs.store import damage

    try:
        recipe: dict[str, Any] = json.loads((path / "recipe.json").read_text())
    except (OSError, ValueError):
        recipe = {}
    if path.parent.name != "artifacts" or digest(recipe) != path.name:
        raise UserError(f"artifact: {str(path)!r} is not in a store; give a directory under outputs/artifacts")
    if (broken := damage(path)) is not None:
        raise UserError(f"artifact: {str(path)!r} is damaged, {broken}; build it again")
    return recipe


def _parent(store: Store, recipe: dict[str, Any], path: Path) -> Path:
    parent = store.find(recipe["parent"])
    if parent is None:
        missing = str(store.root / recipe["parent"])
        raise UserError(f"artifact: {missing!r}, from which {path.name} was made, is gone; build it again")
    return parent


def _dense(store: Store, path: Path) -> Path:
    """The dense model at the start of an artifact's chain."""
    while (recipe := _recipe(path))["kind"] != "baseline":
        path = _parent(store, recipe, path)
    return path

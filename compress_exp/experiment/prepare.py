"""The parent's model with what the methods of a stage insert, and what they decided for it kept through a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress_exp.config.checks import FieldError
from compress_exp.experiment.stages import Stage
from compress_exp.methods.context import Context
from compress_exp.methods.parametrized import lock
from compress_exp.methods.prepared import Prepared
from compress_exp.models.families.base import family_of
from compress_exp.outputs.files import write_json
from compress_exp.parallel import ranks, seeds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("compress_exp")


def prepare(stage: Stage, context: Context, parent: Callable[[], PreTrainedModel], directory: Path) -> PreTrainedModel:
    """Insert what each member of a stage inserts, in order; what a member has to decide first is decided once.

    Whenever a member has decided, its answer is written and all begins again from the parent: so what is trained comes
    from disk, on every rank and whether or not the stage was killed in between.

    Args:
        stage: its members.
        context: what they may use.
        parent: loads the parent's model anew, on the context's device.
        directory: what was decided is kept there.

    Raises:
        UserError: a member cannot work on this model.
    """
    model, given = parent(), context
    for index, (key, method) in enumerate(zip(stage.keys, stage.methods, strict=True)):
        lock(model)
        with told_at(f"method.{key}"):
            if (prepared := _read(directory, index)) is None:
                torch.manual_seed(seeds.derived(context.seed, "fit", index))
                if (fitted := method.fit(model, context)) is not None:
                    if ranks.rank() == 0:
                        _write(fitted, directory, index)
                    return prepare(stage, given, parent, directory)
                prepared = Prepared()
            model = method.insert(model, prepared.spec, context)
            prepared.load(model)
            context = replace(context, family=family_of(model.config.model_type))
    lock(model)
    return model


@contextmanager
def told_at(key: str) -> Iterator[None]:
    """Give the errors of fields the place in the configuration that they are of."""
    try:
        yield
    except FieldError as error:
        raise error.at(key) from error


def _places(directory: Path, index: int) -> tuple[Path, Path]:
    return directory / f"prepared-{index}.json", directory / f"prepared-{index}.safetensors"


def _write(prepared: Prepared, directory: Path, index: int) -> None:
    """The tensors first, then the specification with their checksum."""
    from safetensors.torch import save_file

    spec, tensors = _places(directory, index)
    temporary = tensors.with_suffix(".tmp")
    save_file({name: value.detach().cpu().contiguous() for name, value in prepared.tensors.items()}, temporary)
    os.replace(temporary, tensors)
    write_json(spec, {"spec": prepared.spec, "sha256": _digest(tensors)})


def _read(directory: Path, index: int) -> Prepared | None:
    """What was kept, as rank 0 finds it; a damaged file counts as none."""
    from safetensors.torch import load_file

    spec, tensors = _places(directory, index)
    if not ranks.from_zero(int(ranks.rank() == 0 and _whole(spec, tensors))):
        return None
    return Prepared(json.loads(spec.read_text())["spec"], load_file(tensors))


def _whole(spec: Path, tensors: Path) -> bool:
    if not spec.exists():
        return False
    try:
        if json.loads(spec.read_text())["sha256"] == _digest(tensors):
            return True
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s); it is decided again", spec, type(error).__name__)
        return False
    log.warning("%s was changed since it was written; it is decided again", tensors)
    return False


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""What can be said of teachers before anything is loaded: who they are, and whether a stage can learn from them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exp.config.checks import FieldError, UserError
from compress_exp.experiment.facts import initial_facts
from compress_exp.experiment.stages import Stage
from compress_exp.methods.base import Facts
from compress_exp.models.checkpoint import check_weights, read_json
from compress_exp.models.loading import Model

if TYPE_CHECKING:
    from compress_exp.tasks.base import Task

BASELINE = "baseline"


@dataclass(frozen=True)
class Known:
    """A teacher as far as the plan knows it.

    Attributes:
        name: "baseline", or the directory as it was written.
        facts: of its model.
        alike: whether it has all tokens of the student, as far as that is known.
    """

    name: str
    facts: Facts
    alike: bool = True


def teacher_names(given: Any) -> tuple[str, ...]:
    """The teachers that the root key names.

    Raises:
        FieldError: it is neither a name nor a list of different ones.
    """
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise FieldError("teacher", f"{given!r} is not allowed; baseline, a directory or a list of them is")
    if len(set(names)) < len(names):
        raise FieldError("teacher", f"{max(names, key=names.count)!r} is named twice; name each teacher once")
    return tuple(names)


def known_teacher(name: str, baseline: Facts, model: Model, task: Task) -> Known:
    """What is known of a teacher.

    Args:
        name: "baseline", or a directory.
        baseline: what is known of the dense model.
        model: the one that is compressed.
        task: what both do.

    Raises:
        UserError: it is no readable model of the same kind, with the task's head and labels, that reads the same rows.
    """
    from compress_exp.formats import artifact

    if name == BASELINE:
        return Known(name, baseline)
    directory = Path(name)
    check_weights(directory, "teacher")
    teacher = Model(name="teacher", path=name)
    kind = teacher.family("teacher").kind
    if kind != model.family().kind:
        raise UserError(f"teacher: {name!r} is of kind {kind}, the model is of kind {model.family().kind}")
    teacher.check_head(task, "teacher")
    teacher.check_labels(task, "teacher")
    artifact.check(directory)
    facts = initial_facts(teacher, task)
    if "quantization_config" in read_json(directory / "config.json", "teacher"):
        facts = replace(facts, heads=None, neurons=None, widths={})
    alike = model.directory is None or has_tokens(directory, model.directory)
    if not alike:
        check_task(name, task)
    return Known(name, facts, alike)


def has_tokens(teacher: Path, student: Path) -> bool:
    """Whether the tokenizer in a directory has all entries of another's."""
    from transformers import AutoTokenizer

    own, other = (place / "tokenizer.json" for place in (teacher, student))
    if own.is_file() and other.is_file() and own.read_bytes() == other.read_bytes():
        return True
    entries = [set(AutoTokenizer.from_pretrained(place).get_vocab()) for place in (teacher, student)]
    return entries[1] <= entries[0]


def check_task(name: str, task: Task) -> None:
    """Refuse a teacher with tokens of its own where every token has an answer.

    Raises:
        UserError: one sentence.
    """
    if not task.by_row:
        raise UserError(
            f"teacher: {name!r} reads with another tokenizer, and task={task.name} has an answer for every token; "
            "take a teacher that has the tokens of the model's tokenizer"
        )


def check_asked(name: str, asked: Collection[str]) -> None:
    """Refuse to ask a teacher with tokens of its own for what belongs to tokens.

    Args:
        name: the teacher's.
        asked: what losses need of it beside logits.

    Raises:
        UserError: one sentence.
    """
    if asked:
        raise UserError(
            f"teacher: {name!r} reads with another tokenizer, so its {min(asked)!r} is not that of the student's "
            "tokens; take a loss that needs logits only, such as loss=soft_targets"
        )


def check_models(stage: Stage, facts: Facts, *teachers: Known) -> None:
    """Refuse losses that cannot compare the model in training, of these facts, with its teachers.

    Raises:
        UserError: one sentence.
    """
    own = zip(stage.keys, stage.methods, strict=True)
    place = next((f"method.{key}.loss" for key, method in own if method.loss is not None), "loss")
    for name, loss in stage.losses.items():
        inner = loss.needs - {"logits"} if loss.uses_teacher else frozenset()
        try:
            for teacher in teachers:
                loss.check(facts, teacher.facts)
                if not teacher.alike:
                    check_asked(teacher.name, inner)
            if inner and len(teachers) > 1:
                told = f"it needs {min(inner)!r}, which {len(teachers)} teachers have no mean of"
                raise FieldError("", f"{told}; name one teacher, or take loss=soft_targets")
        except FieldError as error:
            raise error.at(f"{place}.{name}") from error

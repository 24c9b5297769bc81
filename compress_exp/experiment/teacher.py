"""The teacher of a stage: the dense model, or an artifact that reads and says what the student does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exp.config.checks import UserError
from compress_exp.experiment.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_teacher(plan: Plan, baseline: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The baseline, or the artifact that `teacher` names if it reads and says what the student does.

    A teacher of more tokens than the student's is cut to them, so that both read the same ids.
    """
    from transformers import AutoTokenizer

    from compress_exp.formats.artifact import load
    from compress_exp.models.vocabulary import shrink

    place = baseline if plan.teacher == "baseline" else Path(plan.teacher)
    teacher, own = load(place), AutoTokenizer.from_pretrained(place)
    same = own.get_vocab() == tokenizer.get_vocab()
    if not same and set(tokenizer.get_vocab()) < set(own.get_vocab()):
        shrink(teacher, own, tokenizer)
        same = True
    if not same or plan.task.classes_of(teacher.config) != plan.task.classes_of(model.config):
        raise UserError(f"teacher: {plan.teacher!r} has another vocabulary or other classes than the student")
    return teacher

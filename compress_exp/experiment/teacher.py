"""The teacher of a stage, loaded: the dense model, an artifact that says what the student does, or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exp.config.checks import UserError
from compress_exp.experiment.plan import Plan
from compress_exp.experiment.rows import read_rows
from compress_exp.experiment.stages import Stage
from compress_exp.experiment.teaching import BASELINE, check_asked, check_task
from compress_exp.outputs.progress import Beat, unheard
from compress_exp.tasks.features import fitting_length

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from compress_exp.training.teacher import Teacher


def load_teacher(
    plan: Plan, stage: Stage, baseline: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> Teacher:
    """What `teacher` names, for a student of this configuration and tokenizer.

    Raises:
        UserError: a teacher does not say what the student does.
    """
    from compress_exp.training.teacher import Ensemble

    names = [name for _, name in plan.taught_by]
    members = [_member(plan, stage, name, baseline, config, tokenizer) for name in names]
    return members[0] if len(members) == 1 else Ensemble(members)


def keep_answers(
    plan: Plan, index: int, parent: Path, baseline: Path, directory: Path, beat: Beat = unheard
) -> dict[str, Any]:
    """Ask the teacher of a stage about every training row, into `directory`."""
    import torch

    from compress_exp.training.answers import write_answers

    stage = plan.stages[index]
    before, tokenizer, config, features = read_rows(plan, stage, parent)
    if tokenizer is not before:
        config.vocab_size = len(tokenizer)
    teacher = load_teacher(plan, stage, baseline, config, tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = write_answers(teacher, plan.task, features, tokenizer, directory, plan.cache.top_k, device, beat)
    return {"steps": steps, "rows": len(features)}


def _member(
    plan: Plan, stage: Stage, name: str, baseline: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> Teacher:
    """One teacher; of more tokens than the student's it is cut to them, of others it reads the rows with its own."""
    from transformers import AutoTokenizer

    from compress_exp.formats.artifact import load
    from compress_exp.models.vocabulary import shrink
    from compress_exp.training.teacher import OwnTokens, SameTokens

    task, place = plan.task, baseline if name == BASELINE else Path(name)
    teacher, own = load(place), AutoTokenizer.from_pretrained(place)
    tokens, others = tokenizer.get_vocab(), own.get_vocab()
    alike = set(tokens) <= set(others)
    if not alike:
        check_task(name, task)
        check_asked(name, stage.asked)
        if stage.changes_batches:
            raise UserError(
                f"teacher: {name!r} reads with another tokenizer, and not the rows that {stage.label} makes"
            )
    elif tokens != others:
        shrink(teacher, own, tokenizer)
    if task.classes_of(teacher.config) != task.classes_of(config):
        raise UserError(f"teacher: {name!r} has other classes than the student")
    if not alike:
        return OwnTokens(teacher, task, own, task.features("train", own, teacher.config))
    if (length := fitting_length(task.max_length, teacher.config)) < fitting_length(task.max_length, config):
        raise UserError(f"teacher: {name!r} reads {length} tokens and the student more; set task.max_length={length}")
    return SameTokens(teacher, task)

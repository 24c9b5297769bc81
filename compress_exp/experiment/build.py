"""Building one artifact that a plan asks for: the baseline, or a stage from its parent."""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exp.config.build import plain
from compress_exp.config.checks import FieldError, UserError
from compress_exp.config.train import TrainConfig
from compress_exp.experiment.plan import Plan
from compress_exp.experiment.prepare import prepare, told_at
from compress_exp.experiment.rows import read_rows
from compress_exp.experiment.stages import Stage
from compress_exp.experiment.teacher import load_teacher
from compress_exp.losses.task import TaskLoss
from compress_exp.methods.context import Context, Work
from compress_exp.models.families.base import family_of
from compress_exp.outputs.progress import Beat, unheard
from compress_exp.outputs.store import STATE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compress_exp.training.module import CompressionModule
    from compress_exp.training.teacher import Teacher


@dataclass(frozen=True)
class Built:
    """A model ready to be written, with what its training left: curves, steps, seconds."""

    model: PreTrainedModel
    context: Context
    history: list[dict[str, float]]
    steps: int
    seconds: float


def build_baseline(plan: Plan, directory: Path, beat: Beat = unheard) -> dict[str, Any]:
    """Train the dense model on hard labels, or take the given one, into `directory`."""
    from compress_exp.parallel.team import team

    with team(1 if plan.model.finetuned else plan.train.devices, lambda: _rank_job(plan, None, directory)):
        built = train_baseline(plan, directory, beat)
    check_weights(built.model, "baseline")
    return publish(built, directory)


def train_baseline(plan: Plan, directory: Path, beat: Beat = unheard) -> Built:
    """What every rank does for the dense model."""
    from compress_exp.training.module import CompressionModule

    use_threads(plan.train)
    tokenizer = plan.model.tokenizer(plan.task)
    model = plan.model.load(plan.task, tokenizer, plan.seed)
    features = [] if plan.model.finetuned else plan.task.features("train", tokenizer, model.config)
    steps = 0 if plan.model.finetuned else steps_of(plan.train, len(features))
    context = make_context(plan, model.config.model_type, tokenizer, tokenizer, features, steps, None)
    if plan.model.finetuned:
        return Built(model.eval(), context, [], 0, 0.0)
    module = CompressionModule(model, context, {"task": TaskLoss()}, (), plan.train)
    return train(module, features, directory, "baseline", beat)


def run_stage(
    plan: Plan,
    index: int,
    parent: Path,
    baseline: Path,
    directory: Path,
    beat: Beat = unheard,
    answers: Path | None = None,
) -> dict[str, Any]:
    """Apply the methods of one stage to the parent's model, into `directory`."""
    return publish(apply_stage(plan, index, parent, baseline, directory, beat, answers), directory)


def apply_stage(
    plan: Plan,
    index: int,
    parent: Path,
    baseline: Path,
    directory: Path,
    beat: Beat = unheard,
    answers: Path | None = None,
) -> Built:
    """Prepare, train if anything trains, convert; nothing is parametrized any more when it comes back."""
    from compress_exp.parallel.team import team

    stage = plan.stages[index]
    devices = stage.train.devices if stage.trains else 1
    with team(devices, lambda: _rank_job(plan, index, directory, parent, baseline, answers)):
        built = train_stage(plan, index, parent, baseline, directory, beat, answers)
    model = convert(stage, built)
    check_weights(model, stage.label)
    return replace(built, model=model)


def convert(stage: Stage, built: Built) -> PreTrainedModel:
    """What the members of a stage make of the trained model, on the CPU; nothing of it is parametrized any more."""
    import torch

    from compress_exp.layers.bf16 import rounded
    from compress_exp.methods.parametrized import bake, mark_masked

    model = built.model.cpu().eval()
    for method in stage.methods:
        mark_masked(model)
        model = method.convert(Work(model, built.context, step=built.steps))
    mark_masked(model)
    bake(model)
    return rounded(model) if built.context.dtype == torch.bfloat16 else model


def train_stage(
    plan: Plan,
    index: int,
    parent: Path,
    baseline: Path,
    directory: Path,
    beat: Beat = unheard,
    answers: Path | None = None,
) -> Built:
    """What every rank does for a stage: prepare, and train if anything trains, with the teacher or its kept answers."""
    import torch

    from compress_exp.formats.artifact import load
    from compress_exp.training.answers import KeptAnswers
    from compress_exp.training.module import CompressionModule
    from compress_exp.training.recovery import recover

    stage = plan.stages[index]
    use_threads(stage.train)
    before, tokenizer, config, features = read_rows(plan, stage, parent)
    steps = steps_of(stage.train, len(features)) if stage.trains else 0
    context = make_context(plan, config.model_type, tokenizer, before, features, steps, baseline)
    (directory / STATE).mkdir(exist_ok=True)
    context = replace(context, dtype=config.dtype or torch.float32)

    def load_parent() -> PreTrainedModel:
        model = load(parent)
        return (model if model.dtype == torch.float32 else model.float()).to(context.device)  # type: ignore[arg-type]

    model = prepare(stage, context, load_parent, directory / STATE)
    context = replace(context, family=family_of(model.config.model_type))
    if not stage.trains:
        work = Work(model, context)
        with torch.no_grad():
            for key, method in zip(stage.keys, stage.methods, strict=True):
                with told_at(f"method.{key}"):
                    method.step(work)
                    method.finish(work)
        return Built(model, context, [], 0, 0.0)
    assert (answers is None) == (plan.answers[index] is None), "kept answers are read where the recipe says so"
    teacher: Teacher | None = None
    if answers is not None:
        teacher = KeptAnswers(answers, features)
    elif stage.uses_teacher:
        teacher = load_teacher(plan, stage, baseline, model.config, tokenizer)
    recover(stage.recovery, model, context)
    decay = stage.recovery.layer_decay
    module = CompressionModule(model, context, stage.losses, stage.methods, stage.train, teacher, decay)
    return train(module, features, directory, stage.label, beat)


def make_context(
    plan: Plan,
    model_type: str,
    tokenizer: PreTrainedTokenizerBase,
    parent_tokenizer: PreTrainedTokenizerBase,
    features: list[dict[str, Any]],
    steps: int,
    baseline: Path | None,
) -> Context:
    """What the methods of a stage may use; the dense model stands for itself where it is being built."""
    import torch

    from compress_exp.formats.artifact import load
    from compress_exp.training.data import calibration_batches

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def pretrained() -> PreTrainedModel:
        return plan.model.load(plan.task, tokenizer, plan.seed)

    def calibration(count: int) -> list[dict[str, torch.Tensor]]:
        batches = calibration_batches(features, lambda rows: plan.task.collate(rows, tokenizer), plan.seed, count)
        return [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]

    return Context(
        family=family_of(model_type),
        task=plan.task,
        tokenizer=tokenizer,
        parent_tokenizer=parent_tokenizer,
        seed=plan.seed,
        device=device,
        steps=steps,
        baseline=pretrained if baseline is None else lambda: load(baseline),
        pretrained=pretrained,
        calibration=calibration,
    )


def _rank_job(
    plan: Plan,
    stage: int | None,
    directory: Path,
    parent: Path | None = None,
    baseline: Path | None = None,
    answers: Path | None = None,
) -> dict[str, Any]:
    """What a further process of a training is told (see `compress_exp.experiment.rank`)."""
    places = {"directory": str(directory), "parent_artifact": str(parent), "baseline": str(baseline)}
    kept = None if answers is None else str(answers)
    return {"config": plain(plan.config), "stage": stage, "answers": kept, **places}


def use_threads(budget: TrainConfig) -> None:
    """Give PyTorch the threads of a budget, or this process's share of the cores."""
    import torch

    from compress_exp.parallel.cores import available_cores
    from compress_exp.parallel.ranks import world

    torch.set_num_threads(budget.threads or max(1, available_cores() // world()))


def steps_of(budget: TrainConfig, rows: int) -> int:
    """Optimiser steps of one round of a budget."""
    from compress_exp.training.data import steps_per_epoch

    if budget.max_steps is not None:
        return budget.max_steps
    return max(1, math.ceil(budget.epochs * steps_per_epoch(rows, budget.batch_size)))


def train(module: CompressionModule, features: list[dict[str, Any]], directory: Path, label: str, beat: Beat) -> Built:
    """Train to the end, from the checkpoint in the directory's state if a killed run left one.

    Raises:
        UserError: the loss, scores or observed ranges are not finite.
    """
    from compress_exp.training.data import Batches
    from compress_exp.training.trainer import fit

    budget, context = module.budget, module.context
    batches = Batches(
        features,
        lambda rows: context.task.collate(rows, context.tokenizer),
        budget.batch_size,
        context.seed,
        budget.buckets,
        module.total_steps,
    )
    (directory / STATE).mkdir(exist_ok=True)
    try:
        seconds = fit(module, batches, budget, directory / STATE, label, beat)
        module.finish()
    except FieldError as error:
        raise error.at(label) from error
    return Built(module.model, context, module.history, module.total_steps, seconds)


def check_weights(model: PreTrainedModel, label: str) -> None:
    """Refuse a model that nothing can be said of.

    Raises:
        UserError: it holds NaN or infinity.
    """
    from compress_exp.models.finite import nonfinite_weight

    if (wrong := nonfinite_weight(model)) is not None:
        raise UserError(f"{label}: what was built is not finite, {wrong}; lower train.learning_rate, here or before")


def publish(built: Built, directory: Path) -> dict[str, Any]:
    """Write the artifact's files; facts for build.json come back."""
    from compress_exp.formats.artifact import save
    from compress_exp.outputs.history import write_history

    write_history(built.history, directory / "history.csv")
    save(built.model, built.context.tokenizer, directory)
    versions = {name: version(name) for name in ("torch", "transformers", "lightning")}
    return {
        "steps": built.steps,
        "training_seconds": built.seconds,
        "host": platform.node(),
        "versions": versions,
    }

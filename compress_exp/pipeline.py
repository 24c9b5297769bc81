"""A pipeline of stages: what the configuration asks for, checked, and how one stage is run."""

from __future__ import annotations

import json
import logging
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from compress_exp.config import FieldError, TrainConfig, UserError, build, check_choice
from compress_exp.losses.base import Loss
from compress_exp.losses.task import TaskLoss
from compress_exp.methods.base import Context, Facts, Method
from compress_exp.models.families.base import Family, family_of
from compress_exp.models.loading import Model, read_config
from compress_exp.store import Store, digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compress_exp.measure.hardware import Hardware
    from compress_exp.tasks.base import Task
    from compress_exp.tracking import Tracking
    from compress_exp.training.module import CompressionModule

log = logging.getLogger("compress_exp")
RECIPE = 1


@dataclass(frozen=True)
class Stage:
    """Methods applied at once: prepare, train if anything trains, convert."""

    methods: tuple[Method, ...]
    loss: Loss
    train: TrainConfig

    @property
    def label(self) -> str:
        """Its methods' names."""
        return "+".join(method.name for method in self.methods)

    @property
    def trains(self) -> bool:
        """Whether any member has a budget."""
        return any(method.trains for method in self.methods)

    @property
    def uses_teacher(self) -> bool:
        """Whether training it asks the teacher."""
        return self.trains and self.loss.uses_teacher


@dataclass(frozen=True)
class Built:
    """A model ready to be written, with what its training left: curves, steps, seconds."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    history: list[dict[str, float]]
    steps: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A checked experiment: everything built from the configuration but nothing trained."""

    model: Model
    task: Task
    train: TrainConfig
    stages: tuple[Stage, ...]
    hardware: Hardware
    tracking: Tracking
    facts: Facts
    seed: int
    teacher: str

    @property
    def baseline_recipe(self) -> dict[str, Any]:
        """What decides the dense model."""
        recipe = {"recipe": RECIPE, "kind": "baseline", "model": self.model.identity(), "task": self.task.identity()}
        return recipe | {"train": None if self.model.finetuned else self.train.identity(), "seed": self.seed}

    def stage_recipe(self, index: int) -> dict[str, Any]:
        """What decides the artifact of a stage, its parent by key."""
        stage = self.stages[index]
        parent = self.baseline_recipe if index == 0 else self.stage_recipe(index - 1)
        teacher = self.baseline_key if self.teacher == "baseline" else Model(name="", path=self.teacher).identity()
        return {
            "recipe": RECIPE,
            "kind": "stage",
            "parent": digest(parent),
            "methods": [method.identity() for method in stage.methods],
            "loss": stage.loss.identity() if stage.trains else None,
            "teacher": teacher if stage.uses_teacher else None,
            "task": self.task.identity(),
            "seed": self.seed,
        }

    @property
    def baseline_key(self) -> str:
        """The name of the dense model's artifact."""
        return digest(self.baseline_recipe)

    @property
    def artifact_key(self) -> str:
        """The name of the last stage's artifact."""
        return digest(self.stage_recipe(len(self.stages) - 1))

    @property
    def label(self) -> str:
        """The stages' names in order."""
        return ", ".join(stage.label for stage in self.stages)

    @property
    def integer(self) -> bool:
        """Whether the result multiplies integers."""
        return any(method.integer for stage in self.stages for method in stage.methods)

    @property
    def run_id(self) -> str:
        """The run's name among all runs: what is measured, how, and beside what."""
        content: dict[str, Any] = {"artifact": self.artifact_key, "baseline": self.baseline_key}
        content |= {"hardware": self.hardware.identity(), "evaluation": self.task.evaluation_identity()}
        return digest(content)

    @property
    def run_name(self) -> str:
        """A readable directory name that ends in the id."""
        methods = "+".join(stage.label for stage in self.stages).replace("/", ".")
        return f"{self.model.name}-{self.task.name}-{methods}-s{self.seed}-{self.run_id}"


def plan(config: DictConfig) -> Plan:
    """Build and check all that can be checked without loading a model.

    Raises:
        UserError: one sentence about the first thing that cannot work.
    """
    try:
        check_choice("measure.stages", config.measure.stages, ("bytes", "all"))
        if config.force is not None:
            check_choice("force", config.force, ("measure", "run", "all"))
    except FieldError as error:
        raise UserError(str(error)) from error
    train: TrainConfig = build(config.train, "train")
    loss: Loss = build(config.loss, "loss")
    model: Model = build(config.model, "model")
    task: Task = build(config.task, "task")
    hardware: Hardware = build(config.hardware, "hardware")
    tracking: Tracking = build(config.tracking, "tracking")
    methods: dict[str, Method] = build(config.method, "method")
    if not methods:
        raise UserError("method: no method is chosen; method=finetune is the dense control")
    for key, method in methods.items():
        if not isinstance(method, Method):
            raise UserError(f"method.{key}: {method!r} is no method; choose one by method=…, as in method=prune")
    model.check()
    task.check()
    hardware.check()
    if config.teacher != "baseline":
        Model(name="teacher", path=config.teacher).check("teacher")
    facts = initial_facts(model)
    check_kind(task, facts.family)
    stages = tuple(Stage((method,), method.loss or loss, method.train) for method in methods.values())
    for stage in stages:
        for method in stage.methods:
            facts = method.check(facts)
    return Plan(model, task, train, stages, hardware, tracking, facts, config.seed, config.teacher)


def initial_facts(model: Model) -> Facts:
    """What the configuration of the model says before anything is loaded."""
    family = model.family()
    config = read_config(model)
    layers = {stack.name: int(getattr(config, stack.count)) for stack in family.stacks}
    return Facts(family, layers, None if model.directory is None else int(config.vocab_size))


def check_kind(task: Task, family: Family) -> None:
    """Refuse a task that the architecture has no head for."""
    wanted = {"language_modelling": ("decoder",), "seq2seq": ("encoder_decoder",), "classification": ("encoder",)}
    if family.kind not in wanted[task.kind]:
        raise UserError(
            f"model: a {family.kind.replace('_', '-')} model cannot do task={task.name} ({task.kind}); "
            f"take a model of kind {wanted[task.kind][0].replace('_', '-')}"
        )


def build_baseline(plan: Plan, directory: Path) -> dict[str, Any]:
    """Train the dense model on hard labels, or take the given one, into `directory`."""
    from compress_exp.training.module import CompressionModule

    tokenizer = plan.model.tokenizer(plan.task)
    model = plan.model.load(plan.task, tokenizer, plan.seed)
    if plan.model.finetuned:
        return publish(Built(model.eval(), tokenizer, [], 0, 0.0), directory)
    features = plan.task.features("train", tokenizer, model.config)
    module = CompressionModule(
        model, plan.task, TaskLoss(), (), plan.train, steps_of(plan.train, len(features)), plan.seed, None
    )
    return publish(train(plan, module, tokenizer, features, directory, "baseline"), directory)


def run_stage(plan: Plan, index: int, parent: Path, baseline: Path, directory: Path) -> dict[str, Any]:
    """Apply the methods of one stage to the parent's model, into `directory`."""
    return publish(apply_stage(plan, index, parent, baseline, directory), directory)


def apply_stage(plan: Plan, index: int, parent: Path, baseline: Path, directory: Path) -> Built:
    """Prepare, train if anything trains, convert; nothing is parametrized any more when it comes back."""
    import torch
    from transformers import AutoTokenizer

    from compress_exp.export.artifact import load
    from compress_exp.methods.parametrized import bake, lock, mark_masked
    from compress_exp.training.data import calibration_batches
    from compress_exp.training.flows import flow_of

    stage = plan.stages[index]
    torch.manual_seed(plan.seed)
    tokenizer = AutoTokenizer.from_pretrained(parent)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(parent).to(device)
    features = plan.task.features("train", tokenizer, model.config)

    def calibration(count: int) -> list[dict[str, torch.Tensor]]:
        batches = calibration_batches(
            features, lambda rows: plan.task.collate(rows, tokenizer), stage.train.batch_size, plan.seed, count
        )
        return [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]

    context = Context(
        family=family_of(model.config.model_type),
        task=plan.task,
        tokenizer=tokenizer,
        seed=plan.seed,
        device=device,
        baseline=lambda: load(baseline),
        pretrained=lambda: plan.model.load(plan.task, tokenizer, plan.seed),
        calibration=calibration,
        directory=directory,
    )
    for method in stage.methods:
        lock(model)
        try:
            model = method.prepare(model, context)
        except FieldError as error:
            raise UserError(f"method.{method.family}.{error}") from error
    lock(model)
    built = Built(model, tokenizer, [], 0, 0.0)
    if stage.trains:
        teacher = load(baseline if plan.teacher == "baseline" else plan.teacher) if stage.uses_teacher else None
        steps = steps_of(stage.train, len(features))
        flow = flow_of(stage.methods)
        module = flow(model, plan.task, stage.loss, stage.methods, stage.train, steps, plan.seed, teacher)
        built = train(plan, module, tokenizer, features, directory, stage.label)
    else:
        with torch.no_grad():
            for method in stage.methods:
                method.step(model, 1.0)
    model = built.model.cpu().eval()
    mark_masked(model)
    for method in reversed(stage.methods):
        model = method.convert(model)
    bake(model)
    return replace(built, model=model)


def steps_of(budget: TrainConfig, rows: int) -> int:
    """Optimiser steps of one round of a budget."""
    from compress_exp.training.data import steps_per_epoch

    if budget.max_steps is not None:
        return budget.max_steps
    return max(1, math.ceil(budget.epochs * steps_per_epoch(rows, budget.batch_size)))


def train(
    plan: Plan,
    module: CompressionModule,
    tokenizer: PreTrainedTokenizerBase,
    features: list[dict[str, Any]],
    directory: Path,
    label: str,
) -> Built:
    """Train to the end, from the checkpoint in `directory` if a killed run left one."""
    from compress_exp.training.data import Batches
    from compress_exp.training.trainer import fit

    budget = module.budget
    batches = Batches(
        features,
        lambda rows: plan.task.collate(rows, tokenizer),
        budget.batch_size,
        plan.seed,
        budget.buckets,
        module.total_steps,
    )
    seconds = fit(module, batches, budget, directory, label)
    return Built(module.model, tokenizer, module.history, module.total_steps, seconds)


def publish(built: Built, directory: Path) -> dict[str, Any]:
    """Write the artifact's files; facts for build.json come back."""
    from compress_exp.export.artifact import save
    from compress_exp.training.trainer import CHECKPOINT, write_history

    write_history(built.history, directory / "history.csv")
    save(built.model, built.tokenizer, directory)
    (directory / CHECKPOINT).unlink(missing_ok=True)
    versions = {name: version(name) for name in ("torch", "transformers", "lightning")}
    return {
        "steps": built.steps,
        "training_seconds": built.seconds,
        "host": platform.node(),
        "versions": versions,
    }


def disk_bytes(plan: Plan) -> int:
    """Bytes that building this plan from nothing may take: weights per artifact, twice exported, one checkpoint."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        parameters = AutoModel.from_config(read_config(plan.model)).num_parameters()
    return 4 * parameters * (len(plan.stages) + 1 + 2 + 3)


def produce(plan: Plan, store: Store, newer_than: float, baseline_too: bool) -> list[Path]:
    """Baseline and the artifact of every stage, in order; what is there is reused.

    Args:
        plan: the experiment.
        store: where artifacts are.
        newer_than: stages finished before this time are built again.
        baseline_too: so is the baseline.
    """
    since = newer_than if baseline_too else 0.0
    paths = [store.get(plan.baseline_recipe, _timed(lambda d: build_baseline(plan, d), "baseline"), "baseline", since)]
    for index, stage in enumerate(plan.stages):
        parent = paths[-1]

        def make(directory: Path, index: int = index, parent: Path = parent) -> dict[str, Any]:
            return run_stage(plan, index, parent, paths[0], directory)

        paths.append(store.get(plan.stage_recipe(index), _timed(make, stage.label), stage.label, newer_than))
    return paths


def _timed(make: Callable[[Path], dict[str, Any]], label: str) -> Callable[[Path], dict[str, Any]]:
    import time

    def timed(directory: Path) -> dict[str, Any]:
        started = time.monotonic()
        facts = make(directory)
        seconds = time.monotonic() - started
        log.info("%-24s built in %.0f s, %d steps -> %s", label, seconds, facts["steps"], str(directory).removesuffix(".partial"))
        return facts | {"seconds": seconds}

    return timed


def stage_rows(plan: Plan, paths: Sequence[Path]) -> list[Mapping[str, Any]]:
    """The record's block about the stages: what each took and how many bytes it left."""
    rows = []
    for stage, path in zip(plan.stages, paths[1:], strict=True):
        facts = json.loads((path / "build.json").read_text())
        size = sum((path / name).stat().st_size for name in ("model.safetensors", "config.json"))
        rows.append(
            {
                "methods": [method.name for method in stage.methods],
                "artifact": path.name.lstrip(".").removesuffix(".old"),
                "seconds": facts["seconds"],
                "steps": facts["steps"],
                "bytes": size,
            }
        )
    return rows

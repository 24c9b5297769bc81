"""What the configuration asks for, checked, with the recipes that name everything it will build."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from compress_exp.config.build import build, plain
from compress_exp.config.checks import FieldError, UserError, check_choice, check_number
from compress_exp.config.plugins import use
from compress_exp.config.recovery import Recovery
from compress_exp.config.train import TrainConfig
from compress_exp.experiment.answers import TeacherCache
from compress_exp.experiment.facts import initial_facts
from compress_exp.experiment.stages import Stage, arrange
from compress_exp.experiment.teaching import BASELINE, check_models, known_teacher, teacher_names
from compress_exp.losses.base import Loss
from compress_exp.methods.base import Facts, Method
from compress_exp.models.families.base import Family
from compress_exp.models.loading import Model
from compress_exp.outputs.files import digest
from compress_exp.outputs.manifest import Identity
from compress_exp.outputs.objectives import parse as parse_objectives

if TYPE_CHECKING:
    from compress_exp.measurement.hardware import Hardware
    from compress_exp.tasks.base import Task
    from compress_exp.tracking.base import Tracking

RECIPE = 2


@dataclass(frozen=True)
class Plan:
    """A checked experiment: everything built from the configuration but nothing trained.

    Teachers are names, "baseline" or directories; `kept` says of each stage whether it reads their kept answers.
    """

    model: Model
    task: Task
    train: TrainConfig
    stages: tuple[Stage, ...]
    hardware: Hardware
    tracking: Tracking
    facts: Facts
    seed: int
    teachers: tuple[str, ...]
    cache: TeacherCache
    kept: tuple[bool, ...]
    config: DictConfig

    @cached_property
    def baseline_recipe(self) -> dict[str, Any]:
        """What decides the dense model."""
        recipe = {"recipe": RECIPE, "kind": "baseline", "model": self.model.identity(), "task": self.task.identity()}
        return recipe | ({} if self.model.finetuned else {"train": self.train.identity(), "seed": self.seed})

    @cached_property
    def recipes(self) -> list[dict[str, Any]]:
        """The baseline's recipe and those of the stages, in order."""
        recipes = [self.baseline_recipe]
        for stage in self.stages:
            recipes.append(self._stage_recipe(stage, digest(recipes[-1]), self.answers[len(recipes) - 1]))
        return recipes

    def stage_recipe(self, index: int) -> dict[str, Any]:
        """What decides the artifact of a stage, its parent by key."""
        return self.recipes[index + 1]

    def _stage_recipe(self, stage: Stage, parent: str, answers: dict[str, Any] | None) -> dict[str, Any]:
        """What decides a stage's result; what takes no part in it is left out."""
        recipe: dict[str, Any] = {
            "recipe": RECIPE,
            "kind": "stage",
            "parent": parent,
            "methods": [method.identity() for method in stage.methods],
            "task": self.task.identity(),
            "seed": self.seed,
        }
        if stage.trains:
            recipe["losses"] = {name: loss.identity() for name, loss in stage.losses.items()}
        if stage.trains and not stage.recovery.whole:
            recipe["recovery"] = stage.recovery.identity()
        if stage.uses_teacher:
            of = [content for content, _ in self.taught_by]
            recipe["teacher"] = {"of": of if len(of) > 1 else of[0]}
            if answers is not None:
                recipe["teacher"] |= {"answers": digest(answers)} | self._top_k
        return recipe

    @cached_property
    def answers(self) -> list[dict[str, Any] | None]:
        """What decides the kept answers that each stage reads; None for a stage that reads none.

        The student's tokenizer and length decide its features: they come with the model, and from what cuts or replaces
        it on the way.
        """
        recipes: list[dict[str, Any] | None] = []
        readers: list[dict[str, Any]] = []
        for stage, kept in zip(self.stages, self.kept, strict=True):
            cut = [method.identity() for method in stage.methods if type(method).retokenize is not Method.retokenize]
            recipe: dict[str, Any] | None = None
            if kept:
                recipe = {"recipe": RECIPE, "kind": "answers", "of": [of for of, _ in self.taught_by]}
                recipe |= {"needs": ["logits"], "task": self.task.identity(), "model": self.model.identity()}
                recipe |= {"readers": [*readers, *cut]} | self._top_k
            recipes.append(recipe)
            readers += [method.identity() for method in stage.methods if method.replaces_model]
        return recipes

    @cached_property
    def vocabulary(self) -> int:
        """Entries of the dense model's vocabulary."""
        return initial_facts(self.model, self.task).vocabulary or self.model.vocabulary

    @property
    def _top_k(self) -> dict[str, Any]:
        return {} if self.cache.top_k is None else {"top_k": self.cache.top_k}

    @cached_property
    def taught_by(self) -> list[tuple[str, str]]:
        """Content and name of every teacher, in an order that is the same however they were written."""

        def content(name: str) -> str:
            return self.baseline_key if name == BASELINE else Model(name="", path=name).identity()["content"]

        return sorted((content(name), name) for name in self.teachers)

    @cached_property
    def chain(self) -> list[str]:
        """The keys of the baseline and of the stages, in order."""
        return [digest(recipe) for recipe in self.recipes]

    @property
    def baseline_key(self) -> str:
        """The name of the dense model's artifact."""
        return digest(self.baseline_recipe)

    @property
    def artifact_key(self) -> str:
        """The name of the last stage's artifact."""
        return self.chain[-1]

    def budgets(self, until: int) -> list[TrainConfig]:
        """Those of everything that trains, up to a stage counted from 1."""
        own = [] if self.model.finetuned else [self.train]
        return own + [stage.train for stage in self.stages[:until] if stage.trains]

    @property
    def label(self) -> str:
        """The stages' names in order."""
        return ", ".join(stage.label for stage in self.stages)

    @property
    def largest_code(self) -> int | None:
        """The largest integer that the result multiplies; None where it multiplies floats only."""
        codes = (method.largest_code for stage in self.stages for method in stage.methods)
        return max((code for code in codes if code is not None), default=None)

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
        check_root_values(config)
    except FieldError as error:
        raise UserError(str(error)) from error
    use(plain(config.plugins))
    train: TrainConfig = build(config.train, "train")
    losses = check_losses(build(config.loss, "loss"), "loss")
    recovery: Recovery = build(config.recovery, "recovery")
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
        for part in method.expand():
            if part.loss is not None:
                check_losses(part.loss, f"method.{key}.loss")
    if not train.trains and not model.finetuned:
        raise UserError(
            "train.max_steps: the baseline needs training; for a method without it set "
            "method.<method>.train.max_steps=0, "
            "for a checkpoint that is the baseline model.finetuned=true"
        )
    model.check()
    if model.finetuned:
        model.check_head(task, "model.finetuned")
    task.check()
    hardware.check()
    facts = initial = initial_facts(model, task)
    teachers = [known_teacher(name, facts, model, task) for name in teacher_names(plain(config.teacher))]
    check_kind(task, facts.family)
    stages = arrange(methods, plain(config.stages), train, losses, recovery)
    for stage in stages:
        for key, method in zip(stage.keys, stage.methods, strict=True):
            try:
                facts = method.check(facts)
            except FieldError as error:
                raise error.at(f"method.{key}") from error
        if stage.trains:
            check_models(stage, facts, *teachers)
    names = tuple(teacher.name for teacher in teachers)
    cache = cache_of(config)
    kept = tuple(cache.keeps(stage, task, initial.vocabulary or model.vocabulary) for stage in stages)
    return Plan(model, task, train, stages, hardware, tracking, facts, config.seed, names, cache, kept, config)


def identity(planned: Plan, config: DictConfig) -> Identity:
    """What the configuration asks for, as far as it must be known to tell whether it is there."""
    until = None if config.until is None else 0 if config.until == "baseline" else int(config.until)
    return Identity(
        run=planned.run_id,
        name=planned.run_name,
        chain=tuple(planned.chain),
        force=config.force,
        until=until if until is None else min(until, len(planned.stages)),
        every_stage=config.measure.stages == "all",
        score=plain(config.score),
        tracking=plain(config.tracking),
    )


def check_root_values(config: DictConfig) -> None:
    """Check what stands at the root and is built into nothing.

    Raises:
        FieldError: naming the key.
    """
    check_number("seed", config.seed, 0, 10**9)
    check_number("lease_seconds", config.lease_seconds, 1, 3600)
    teacher_names(plain(config.teacher))
    cache_of(config)
    if config.until is not None and config.until != "baseline":
        if not isinstance(config.until, int):
            raise FieldError("until", f"{config.until!r} is not allowed; null, baseline or the number of a stage is")
        check_number("until", config.until, 1)
    for name, keys in (("measure", ("stages",)), ("score", ("accuracy", "compression", "speed"))):
        if not isinstance(config[name], DictConfig) or set(config[name]) != set(keys):
            raise FieldError(name, f"exactly these keys are needed: {', '.join(keys)}")
    check_choice("measure.stages", config.measure.stages, ("bytes", "all"))
    for name, weight in config.score.items():
        check_number(f"score.{name}", weight)
    parse_objectives(config.objectives)
    if config.force is not None:
        check_choice("force", config.force, ("measure", "run", "all"))


def check_losses(losses: Any, key: str) -> dict[str, Loss]:
    """Require losses by name."""
    if not losses or not isinstance(losses, dict):
        raise UserError(f"{key}: no loss is chosen; loss=task is hard labels only")
    for name, loss in losses.items():
        if not isinstance(loss, Loss):
            raise UserError(f"{key}.{name}: {loss!r} is no loss; choose one by loss=…, as in loss=soft_targets")
    return losses


def cache_of(config: DictConfig) -> TeacherCache:
    """The settings of kept answers.

    Raises:
        FieldError: naming the key.
    """
    given = plain(config.teacher_cache)
    names = [item.name for item in fields(TeacherCache)]
    if not isinstance(given, dict) or set(given) != set(names):
        raise FieldError("teacher_cache", f"exactly these keys are needed: {', '.join(names)}")
    try:
        return TeacherCache(**given)
    except FieldError as error:
        raise FieldError(f"teacher_cache.{error.name}", error.message) from error


def check_kind(task: Task, family: Family) -> None:
    """Refuse a model of a kind that the task is not for."""
    if family.kind not in task.model_kinds:
        raise UserError(
            f"model: a model of kind {family.kind.replace('_', '-')} cannot do task={task.name} ({task.kind}); "
            f"take a model of kind {' or '.join(task.model_kinds).replace('_', '-')}"
        )


def disk_bytes(plan: Plan, missing: int) -> int:
    """Bytes that building may take: weights of each, two exports, a checkpoint with Adam, decisions, kept answers."""
    kept = {digest(recipe) for recipe in plan.answers if recipe is not None} if missing else set()
    answers = len(kept) * plan.cache.size(plan.task, plan.vocabulary) if kept else 0
    return 4 * plan.model.parameters() * (missing + 2 + (4 if missing else 0)) + answers

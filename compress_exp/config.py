"""The configuration: root schema, checks that answer in one sentence, and the one way to build an object from it.

Nothing here imports torch or transformers: configuration errors must answer within a second.
"""

from __future__ import annotations

import difflib
import inspect
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from compress_exp.identity import settings

SOURCE_CONF = Path(__file__).resolve().parent.parent / "conf"
CONF = SOURCE_CONF if (SOURCE_CONF / "config.yaml").is_file() else Path(__file__).resolve().parent / "conf"


class UserError(Exception):
    """A mistake of the user's, told in one sentence: what, where, and what is allowed or what to do."""


class FieldError(ValueError):
    """A bad value of one field, or (with an empty name) of a whole object, which does not know where it stands."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}" if name else message)
        self.name, self.message = name, message

    def at(self, key: str) -> UserError:
        """The same for the user, with the key of the object in the configuration."""
        return UserError(f"{key}.{self.name}: {self.message}" if self.name else f"{key}: {self.message}")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A clause that names the closest allowed spellings and lists the rest."""
    names = [str(item) for item in allowed]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}allowed: {', '.join(names)}"


def check_number(name: str, value: Any, low: float | None = None, high: float | None = None) -> None:
    """Require a finite number with low ≤ value ≤ high."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (low is not None and value < low) or (high is not None and value > high):
        bounds = f" between {low:g} and {high:g}" if low is not None and high is not None else ""
        bounds = bounds or (f" of at least {low:g}" if low is not None else "")
        bounds = bounds or (f" of at most {high:g}" if high is not None else "")
        raise FieldError(name, f"{value!r} is not allowed, a number{bounds} is")


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Require one of the allowed strings."""
    if value not in (options := list(allowed)):
        raise FieldError(name, f"{value!r} is not allowed; {nearest(str(value), options)}")


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin in (list, tuple) and isinstance(value, list | tuple) and typing.get_args(hint):
        return all(_fits(item, typing.get_args(hint)[0]) for item in value)
    expected = origin or hint
    return not isinstance(expected, type) or isinstance(value, expected)


def build(node: Any, key: str) -> Any:
    """Build the object that a configuration node describes, checking names, types and ranges.

    Args:
        node: a mapping with `_target_` (a dataclass or a class) and its arguments; nested ones are built first.
        key: where the node stands in the configuration, for the error.

    Raises:
        UserError: one sentence that names the key, the value and what is allowed.
    """
    config: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    if isinstance(config, Mapping) and "_target_" in config:
        return _construct(config, key)
    if isinstance(config, Mapping):
        return {name: build(value, f"{key}.{name}") for name, value in config.items()}
    return config


def _construct(config: Mapping[str, Any], key: str) -> Any:
    try:
        target = get_class(config["_target_"])
    except Exception as error:
        raise UserError(f"{key}._target_: {config['_target_']!r} cannot be imported ({error})") from error
    arguments = {name: build(value, f"{key}.{name}") for name, value in config.items() if name != "_target_"}
    hints = typing.get_type_hints(target if is_dataclass(target) else inspect.getattr_static(target, "__init__"))
    names = [item.name for item in fields(target)] if is_dataclass(target) else [n for n in hints if n != "return"]
    for name, value in arguments.items():
        if name not in names:
            raise UserError(f"{key}.{name}: there is no such key; {nearest(name, names)}")
        if not _fits(value, hints.get(name, Any)):
            raise UserError(f"{key}.{name}: {value!r} is not allowed, {_spell(hints[name])} is")
        if isinstance(value, list) and typing.get_origin(hints.get(name)) is tuple:
            arguments[name] = tuple(value)
        if isinstance(value, int) and not isinstance(value, bool) and _is_float(hints.get(name)):
            arguments[name] = float(value)
    if is_dataclass(target):
        for item in fields(target):
            needed = item.default is MISSING and item.default_factory is MISSING
            if needed and item.name not in arguments:
                raise UserError(f"{key}.{item.name}: this key must be set")
    try:
        return target(**arguments)
    except FieldError as error:
        raise error.at(key) from error


def _is_float(hint: Any) -> bool:
    """Whether a number is to be a float, so that 1 and 1.0 are one setting with one key."""
    options = typing.get_args(hint) or (hint,)
    return float in options and int not in options


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_spell(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) in (list, tuple) and typing.get_args(hint):
        return f"a list (each {_spell(typing.get_args(hint)[0])})"
    plain = {float: "a number", int: "a whole number", bool: "true or false", str: "a string", type(None): "null"}
    return plain.get(hint, str(hint))


def plain(node: Any) -> Any:
    """The resolved node as plain dictionaries, lists and scalars."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training budget and its numerics.

    Attributes:
        epochs: passes over the training rows; ignored when `max_steps` is set.
        max_steps: optimiser steps; null counts by epochs, 0 trains nothing (post-training methods).
        learning_rate: peak of the schedule (linear warm-up, linear decay to zero).
        batch_size: rows per optimiser step.
        warmup: share of the steps in which the learning rate rises, in [0, 1].
        weight_decay: AdamW's, on matrices only.
        gradient_clip: largest norm of the gradient; 0 switches clipping off.
        precision: "f32" or "bf16" (autocast; weights stay in float32), which is slower on CPUs without bfloat16.
        threads: CPU threads of each process of training; null shares out all cores.
        devices: GPUs (CPU processes where there is none) that share the rows of every batch.
        buckets: group rows of similar length, so that little is padded.
        checkpoint_steps: steps between checkpoints; a killed run goes on from the last one.
        checkpoint_minutes: a checkpoint is also written after so many minutes.
    """

    epochs: float
    learning_rate: float
    batch_size: int
    max_steps: int | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    precision: str = "f32"
    threads: int | None = None
    devices: int = 1
    buckets: bool = True
    checkpoint_steps: int = 500
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, 0)
        check_number("learning_rate", self.learning_rate, 0, 1)
        check_number("batch_size", self.batch_size, 1)
        check_number("warmup", self.warmup, 0, 1)
        check_number("weight_decay", self.weight_decay, 0)
        check_number("gradient_clip", self.gradient_clip, 0)
        check_choice("precision", self.precision, ("f32", "bf16"))
        check_number("devices", self.devices, 1)
        check_number("checkpoint_steps", self.checkpoint_steps, 1)
        check_number("checkpoint_minutes", self.checkpoint_minutes, 0)
        if self.max_steps is not None:
            check_number("max_steps", self.max_steps, 0)
        if self.threads is not None:
            check_number("threads", self.threads, 1)

    @property
    def trains(self) -> bool:
        """Whether there is anything to train: `max_steps=0` and `epochs=0` mean post-training."""
        return self.epochs > 0 if self.max_steps is None else self.max_steps > 0

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights: everything but threads, devices and checkpoint intervals."""
        ignored = "epochs" if self.max_steps is not None else "max_steps"
        return settings(self, without={ignored, "threads", "devices", "checkpoint_steps", "checkpoint_minutes"})


@dataclass
class Root:
    """The structured root of the configuration; the groups below it are checked when they are built."""

    model: Any = None
    task: Any = None
    method: Any = None
    stages: Any = None
    loss: Any = None
    train: Any = None
    hardware: Any = None
    tracking: Any = None
    seed: int = 0
    teacher: str = "baseline"
    outputs: str = "outputs"
    plan: bool = False
    force: str | None = None
    since: float | None = None
    until: Any = None
    lease_seconds: float = 60.0
    measure: Any = None
    score: Any = None
    objectives: Any = None


ConfigStore.instance().store(name="schema", node=Root)

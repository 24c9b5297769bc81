"""The search space that overrides describe, and the overrides that a trial draws from it.

Choices of configuration groups are drawn first, then those of groups inside them (`loss@method.distill.loss`), then
values; each only where what was drawn before has its key, so `method.prune.sparsity` is left alone where `method=quant`
was drawn. Keys that are added (`+`) always count.
Nothing here imports torch or optuna.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig

from compress_exp.config.checks import UserError
from compress_exp.config.overrides import options, parse, values

DIGITS = 4
GROUP, NESTED, VALUE = range(3)  # method=…, +a.b=…; then loss@method.distill.loss=…; then method.prune.sparsity=…


class Trial(Protocol):
    """What draws values: Optuna's trial."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of the choices."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """A number from low to high."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """A whole number from low to high."""
        ...


@dataclass(frozen=True)
class Choice:
    """One of several values; sorted, so that the order of writing does not matter."""

    name: str
    values: tuple[str, ...]

    def draw(self, trial: Trial) -> str:
        """The value that the trial chooses."""
        return trial.suggest_categorical(self.name, self.values)

    def first(self) -> str:
        """A value, for checks."""
        return self.values[0]


@dataclass(frozen=True)
class Number:
    """A number in an interval or on a grid, both ends included."""

    name: str
    low: float
    high: float
    step: float | None
    log: bool

    def draw(self, trial: Trial) -> str:
        """The number that the trial chooses, as short as the interval allows."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = 1 if self.step is None else int(self.step)
            return str(trial.suggest_int(self.name, self.low, self.high, step=step, log=self.log))
        value = trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)
        return str(self._on_grid(value) if self.step else self._rounded(value))

    def first(self) -> str:
        """A value, for checks."""
        return str(self.low)

    def _on_grid(self, value: float) -> float:
        count = round((value - self.low) / (self.step or 1))
        return float(_decimal(self.low) + count * _decimal(self.step or 1))

    def _rounded(self, value: float) -> float:
        scale = value if self.log else self.high - self.low
        digits = DIGITS - math.floor(math.log10(abs(scale) or 1))
        return min(max(round(value, digits), self.low), self.high)


@dataclass(frozen=True)
class Space:
    """What is fixed and what is drawn.

    Attributes:
        fixed: overrides with one value, by key.
        drawn: parameters, by key.
        levels: when a key is looked at: `GROUP`, `NESTED` or, by default, `VALUE`.
        compose: gives the configuration of overrides.
    """

    fixed: dict[str, str]
    drawn: dict[str, Choice | Number]
    levels: dict[str, int]
    compose: Callable[[Sequence[str]], DictConfig]

    def overrides(self, trial: Trial) -> list[str]:
        """The overrides of a trial."""
        return list(self._choose(lambda key: self.fixed.get(key) or f"{key}={self.drawn[key].draw(trial)}").values())

    def examples(self) -> list[list[str]]:
        """Overrides in which every choice of a group occurs once, the other groups at their first.

        Raises:
            UserError: a key that no choice has.
        """
        first = {key: self.fixed.get(key) or f"{key}={self.drawn[key].first()}" for key in self._keys()}
        found = [self._choose(variation.__getitem__) for variation in self._variations(first)]
        if missing := [key for key in first if not any(key in chosen for chosen in found)]:
            self.compose([*found[0].values(), first[missing[0]]])
            raise UserError(f"{missing[0]}: there is no such key with any of the choices")
        return [list(chosen.values()) for chosen in found]

    def identity(self) -> dict[str, object]:
        """What decides which trials there can be; the order of the arguments does not matter."""
        return {
            "fixed": sorted(self.fixed.values()),
            "drawn": {key: repr(self.drawn[key]) for key in sorted(self.drawn)},
        }

    def without(self, names: Sequence[str]) -> tuple[Space, list[str]]:
        """The space without what is fixed below some root keys, and that."""
        apart = {key: value for key, value in self.fixed.items() if key.lstrip("+~").split(".")[0] in names}
        rest = {key: value for key, value in self.fixed.items() if key not in apart}
        return replace(self, fixed=rest), list(apart.values())

    def fix(self, key: str, value: str) -> Space:
        """The space with one value of a key."""
        drawn = {name: parameter for name, parameter in self.drawn.items() if name != key}
        return replace(self, fixed=self.fixed | {key: f"{key}={value}"}, drawn=drawn)

    def _choose(self, override: Callable[[str], str]) -> dict[str, str]:
        """The overrides of the keys that there are, level by level, since each decides what the next one has."""
        chosen = {key: override(key) for key in self._keys(GROUP)}
        for level in (NESTED, VALUE):
            if keys := self._keys(level):
                config = self.compose(list(chosen.values()))
                chosen |= {key: override(key) for key in keys if has(config, _place(key))}
        return chosen

    def _keys(self, *levels: int) -> list[str]:
        return [key for key in [*self.fixed, *self.drawn] if not levels or self.levels.get(key, VALUE) in levels]

    def _variations(self, first: dict[str, str]) -> Iterator[dict[str, str]]:
        yield first
        for key in self._keys(GROUP, NESTED):
            parameter = self.drawn.get(key)
            for value in parameter.values[1:] if isinstance(parameter, Choice) else ():
                yield first | {key: f"{key}={value}"}


def read(arguments: Sequence[str], loader: ConfigLoader, compose: Callable[[Sequence[str]], DictConfig]) -> Space:
    """The space of the arguments; of two with one key the later counts.

    Raises:
        UserError: a parameter that cannot be searched.
    """
    parsed = {override.get_key_element(): override for override in parse(arguments, loader)}
    drawn = {key: _parameter(key, item, loader) for key, item in parsed.items() if item.is_sweep_override()}
    fixed = {key: str(item.input_line) for key, item in parsed.items() if key not in drawn}
    return Space(fixed, drawn, {key: _level(key, item, loader) for key, item in parsed.items()}, compose)


def has(config: DictConfig, key: str) -> bool:
    """Whether a configuration has a dotted key, whatever its value."""
    node: object = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node.keys():  # noqa: SIM118 (`in` leaves out missing values)
            return False
        node = None if node._is_none() else node._get_node(part)
    return True


def _level(key: str, override: Override, loader: ConfigLoader) -> int:
    if key.startswith("+"):
        return GROUP
    if not options(override.key_or_group, loader):
        return VALUE
    return GROUP if override.package is None else NESTED


def _place(key: str) -> str:
    """Where in the configuration an override goes."""
    group, _, package = key.lstrip("~").partition("@")
    return package or group


def _parameter(key: str, override: Override, loader: ConfigLoader) -> Choice | Number:
    sweep = override.value()
    tags = sweep.tags if isinstance(sweep, IntervalSweep | RangeSweep) else set()
    if tags - {"log"} or (tags and not isinstance(sweep, IntervalSweep)):
        raise UserError(f"{override.input_line}: the only tag is log, of an interval: tag(log, interval(1e-5, 1e-3))")
    if isinstance(sweep, IntervalSweep):
        return _interval(key, str(override.input_line), sweep)
    if isinstance(sweep, RangeSweep):
        return _range(key, str(override.input_line), sweep)
    return Choice(key, tuple(sorted({value.removeprefix(f"{key}=") for value in values(override, loader)})))


def _interval(key: str, line: str, sweep: IntervalSweep) -> Number:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if low is None or high is None or not low <= high or (log and low <= 0):
        allowed = "0 < low <= high" if log else "low <= high"
        raise UserError(f"{line}: the interval must have {allowed}")
    return Number(key, low, high, None, log)


def _range(key: str, line: str, sweep: RangeSweep) -> Number:
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if start is None or stop is None or not step or (count := _count(start, stop, step)) < 1:
        raise UserError(f"{line}: the range holds no value, so there would be no run")
    if all(isinstance(item, int) for item in (start, stop, step)):
        ends: list[float] = sorted((start, start + (count - 1) * step))
    else:
        ends = sorted(float(_decimal(start) + index * _decimal(step)) for index in (0, count - 1))
    return Number(key, ends[0], ends[1], abs(step), False)


def _count(start: float, stop: float, step: float) -> int:
    return math.ceil((_decimal(stop) - _decimal(start)) / _decimal(step))


def _decimal(value: float) -> Decimal:
    return Decimal(str(value))

"""Stages: methods applied at once, and how the configuration arranges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress_exp.config.checks import UserError, nearest
from compress_exp.config.recovery import Recovery
from compress_exp.config.train import TrainConfig
from compress_exp.losses.base import Loss
from compress_exp.methods.base import Method
from compress_exp.methods.course import Course

WHOLE = Recovery()


@dataclass(frozen=True)
class Stage:
    """Methods applied at once: prepare, train if anything trains, convert.

    Attributes:
        keys: the methods' own in the configuration.
        methods: in the order in which they are applied: first what replaces the model, last what packs weights.
        losses: what training minimises, by name; they add up.
        train: the budget.
        recovery: which parameters train.
    """

    keys: tuple[str, ...]
    methods: tuple[Method, ...]
    losses: Mapping[str, Loss]
    train: TrainConfig
    recovery: Recovery = WHOLE

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
        return self.trains and any(loss.uses_teacher for loss in self.losses.values())

    @property
    def changes_batches(self) -> bool:
        """Whether a member makes other rows of those it is given while it trains."""
        return any(type(method).batch is not Method.batch for method in self.methods)

    @property
    def asked(self) -> frozenset[str]:
        """What its losses need of the teacher beside logits."""
        needs = [loss.needs for loss in self.losses.values() if loss.uses_teacher]
        return frozenset().union(*needs) - {"logits"}


def arrange(
    methods: Mapping[str, Method],
    stages: Any,
    train: TrainConfig,
    losses: Mapping[str, Loss],
    recovery: Recovery = WHOLE,
) -> tuple[Stage, ...]:
    """The stages in order.

    Args:
        methods: by their keys, in the order written.
        stages: null for one stage per method, or a list of lists of keys: [[prune,quant],[finetune]].
        train: the root's budget, which methods at once train with.
        losses: the root's, for methods that bring none.
        recovery: the root's, for methods that bring none.

    Raises:
        UserError: they cannot be arranged so.
    """
    groups = [[key] for key in methods] if stages is None else _groups(stages, list(methods))
    return tuple(
        _stage(members, train, losses, recovery)
        for group in groups
        for members in _expanded([(key, methods[key]) for key in group])
    )


def _expanded(group: list[tuple[str, Method]]) -> list[list[tuple[str, Method]]]:
    """The members of the stages that a group comes to: one, or as many as its only member expands into."""
    if len(group) == 1:
        return [[(group[0][0], part)] for part in group[0][1].expand()]
    for key, method in group:
        if len(method.expand()) > 1:
            raise UserError(f"stages: {key} ({method.name}) is several stages; give it one of its own, as in [[{key}]]")
    return [group]


def _groups(stages: Any, keys: list[str]) -> list[list[str]]:
    lists = isinstance(stages, list) and stages and all(isinstance(group, list) and group for group in stages)
    if not lists:
        raise UserError(f"stages: {stages!r} is not allowed; null or a list of lists is, as in [[prune,quant]]")
    named = [key for group in stages for key in group]
    for key in named:
        if key not in keys:
            raise UserError(f"stages: {key!r} is no key of method; {nearest(str(key), keys)}")
    for key in keys:
        if named.count(key) != 1:
            raise UserError(f"stages: {key} is to appear once, not {named.count(key)} times")
    return [list(group) for group in stages]


def _stage(
    written: list[tuple[str, Method]], train: TrainConfig, losses: Mapping[str, Loss], recovery: Recovery
) -> Stage:
    # What happens at once has no order but this one, so that it has one key however it was written.
    members = sorted(written, key=lambda member: (not member[1].replaces_model, member[1].packs))
    keys, methods = tuple(key for key, _ in members), tuple(method for _, method in members)
    own = [method.loss for method in methods if method.loss is not None]
    recovery = _recovery(members, recovery)
    if len(members) == 1:
        return Stage(keys, methods, own[0] if own else losses, methods[0].train, recovery)
    names = ", ".join(key for key, _ in members)
    if sum(method.replaces_model for method in methods) > 1:
        raise UserError(
            f"stages: one method at once may replace the model, and {names} has more; give one its own stage"
        )
    trains = any(method.trains for method in methods)
    for key, method in members:
        if trains and method.packs and not method.trains:
            raise UserError(
                f"stages: {key} packs weights without training, and others at once ({names}) train; set "
                f"method.{key}.train.max_steps=null, or give it a stage of its own"
            )
        if method.trains and method.train.identity() != train.identity():
            raise UserError(
                f"stages: {key} has a budget of its own, and methods at once ({names}) share the root's; "
                f"leave method.{key}.train as it is and take a variant that trains, or give it a stage of its own"
            )
    families = [method.family for method in methods]
    if len(set(families)) < len(families):
        raise UserError(f"stages: one method of a family at once, and {names} has two; give one a stage of its own")
    if sum(method.course != Course() for method in methods) > 1:
        raise UserError(f"stages: one method at once may train in rounds, and {names} has more")
    if len({str({name: loss.identity() for name, loss in item.items()}) for item in own}) > 1:
        raise UserError(f"stages: {names} bring losses of their own, and methods at once share one; set one to task")
    return Stage(keys, methods, own[0] if own else losses, train if trains else methods[0].train, recovery)


def _recovery(members: list[tuple[str, Method]], root: Recovery) -> Recovery:
    """What of the model trains: as the members say, or else the root."""
    given = {key: method.recovery for key, method in members if method.recovery is not None and method.trains}
    if len({str(item.identity()) for item in given.values()}) > 1:
        raise UserError(f"stages: {' and '.join(given)} train at once and recover differently; give them one recovery")
    recovery = next(iter(given.values()), root)
    for key, method in members:
        if recovery.adapter is not None and method.moves_weights:
            raise UserError(
                f"recovery.adapter: {key} ({method.name}) moves the weights that it freezes; set it to null"
            )
    return recovery

"""Weights that pass through masks and fake quantizers while they train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compress_exp.layers.surgery import mark_pruned, pruned_modules
from compress_exp.layers.weights import original, parametrizations, weight_of
from compress_exp.methods.select import Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Module = TypeVar("Module", bound=nn.Module)
ADAPTERS, MASKS, GRIDS = range(3)


class Adapter(nn.Module):
    """A parametrization that trains in place of the weight; masks and grids work on what it gives."""

    place: ClassVar[int] = ADAPTERS


class Gate(nn.Module, ABC):
    """A parametrization that lets a part of a weight through and makes the rest exactly zero.

    Attributes:
        owner: the name of the method that moves it; empty where it only locks what an earlier stage pruned.
    """

    owner: str = ""
    place: ClassVar[int] = MASKS

    @abstractmethod
    def kept(self, weight: Tensor) -> Tensor:
        """Which entries of the trained tensor pass: bool, in its shape."""


class Mask(Gate):
    """M ⊙ W: zeros that stay zeros whatever the optimiser does behind them.

    Attributes:
        factor: 1 for what is kept, else 0, in the weight's shape and type: converting a bool mask in every step would
            take a third of what masks cost.
        score: what decides the order of pruning (the smallest go first), in the weight's shape; None where that is
            looked up in the weight at the time.
        ranked_at: the progress for which it was cut last; −1 before.
    """

    factor: Tensor
    score: Tensor | None
    ranked_at: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones_like(weight))
        self.register_buffer("score", None)
        self.register_buffer("ranked_at", torch.tensor(-1.0, dtype=torch.float64))

    def forward(self, weight: Tensor) -> Tensor:
        """Zero what is masked."""
        return weight * self.factor

    @property
    def mask(self) -> Tensor:
        """What is kept: bool, in the weight's shape."""
        return self.factor != 0

    def kept(self, weight: Tensor) -> Tensor:
        """The mask."""
        return self.mask


def attach(holders: Iterable[nn.Module], module: nn.Module) -> None:
    """Let a weight pass through `module`, the same one on every holder of a tied weight.

    What a weight passes through is ordered by place and not by time, so that methods at once come to the same in any
    order: adapters change it, masks take parts of it away, grids round what is left and fit their scales to that.
    """
    for holder in holders:
        parametrize.register_parametrization(holder, "weight", module)
        chain = holder.parametrizations["weight"]  # type: ignore[index]
        for index, item in enumerate(sorted(chain, key=place_of)):
            chain[index] = item


def place_of(module: nn.Module) -> int:
    """Where a parametrization stands among those of a weight: 0 adapters, 1 masks, 2 grids."""
    place: int = getattr(module, "place", MASKS)
    return place


def take(chosen: Sequence[Target], owner: str) -> None:
    """Give every chosen weight a mask that a method moves; one that locks an earlier stage's zeros is taken over."""
    for target in chosen:
        mask = attached(target.modules[0], Mask)
        if mask is None:
            mask = Mask(original(target.modules[0]))
            attach(target.modules, mask)
        mask.owner = owner
        mask.ranked_at.fill_(-1.0)


def attached(module: nn.Module, kind: type[Module]) -> Module | None:
    """The parametrization of that kind on a module's weight, if there is one."""
    return next((item for item in parametrizations(module) if isinstance(item, kind)), None)


def parametrized(model: nn.Module) -> Iterator[nn.Module]:
    """The modules whose weight passes through something."""
    return (module for module in model.modules() if parametrize.is_parametrized(module, "weight"))


def owned(model: nn.Module, owner: str, kind: type[Module]) -> list[tuple[nn.Module, Module]]:
    """The gates of a method, each once, with the first module that holds them, in the order of the modules."""
    found: dict[int, tuple[nn.Module, Module]] = {}
    for module in parametrized(model):
        for gate in gates(module):
            if gate.owner == owner and isinstance(gate, kind):
                found.setdefault(id(gate), (module, gate))
    return list(found.values())


def gates(module: nn.Module) -> list[Gate]:
    """What a module's weight passes through and may be zeroed by."""
    return [item for item in parametrizations(module) if isinstance(item, Gate)]


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The model's own parameters, without those of gates, by the names that they have where nothing is parametrized."""
    gates = {id(p) for module in model.modules() if isinstance(module, Gate) for p in module.parameters()}
    return {plain_name(name): parameter for name, parameter in model.named_parameters() if id(parameter) not in gates}


def copied(model: PreTrainedModel) -> PreTrainedModel:
    """A deep copy whose parametrizations can be removed without those of the model.

    A parametrized module is of a class of its own, which holds the parametrized tensor as a property and which a deep
    copy shares.
    """
    copy = deepcopy(model)
    for module in list(parametrized(copy)):
        kind = type(module)
        own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(kind.__name__, kind.__bases__, own)
    return copy


def plain_name(name: str) -> str:
    """A parameter's name where nothing is parametrized."""
    return name.replace("parametrizations.weight.original", "weight")


def adapted(module: nn.Module) -> Tensor:
    """A module's weight as its adapters leave it, before masks and grids; without adapters the trained tensor."""
    weight = original(module)
    for item in parametrizations(module):
        if isinstance(item, Adapter):
            weight = item(weight)
    return weight


def passing(module: nn.Module, but: str | None = None) -> Tensor:
    """What the gates of a module's weight let through: bool, in its shape.

    Args:
        module: holds the weight.
        but: the owner of gates that are left out.
    """
    weight = original(module)
    kept = torch.ones_like(weight, dtype=torch.bool)
    for gate in gates(module):
        if gate.owner != but:
            kept &= gate.kept(weight)
    return kept


def lock(model: nn.Module) -> None:
    """Mask what earlier stages pruned, wherever nothing is masked yet; tied weights get one mask."""
    masks: dict[int, Mask] = {}
    for _, module in list(pruned_modules(model)):
        if gates(module):
            continue
        weight = original(module)
        if id(weight) not in masks:
            masks[id(weight)] = Mask(weight)
            masks[id(weight)].factor.copy_(weight != 0)
        attach([module], masks[id(weight)])


def mark_masked(model: nn.Module) -> None:
    """Mark every module whose gates zero something, so that its zeros outlive them."""
    for module in parametrized(model):
        if not bool(passing(module).all()):
            mark_pruned(module)


def bake(model: nn.Module, kind: type[nn.Module] = nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Make every parametrized weight an ordinary parameter with its present value; tied weights stay tied.

    Args:
        model: is changed.
        kind: the parametrizations that are made permanent.

    Returns:
        The others with the modules that they are taken from, in order: what is to be registered again, once the
        weights have their shapes.
    """
    holders: dict[int, list[nn.Module]] = {}
    others: list[tuple[nn.Module, nn.Module]] = []
    for module in parametrized(model):
        holders.setdefault(id(original(module)), []).append(module)
    for modules in holders.values():
        value = original(modules[0]).detach().clone()
        for item in parametrizations(modules[0]):
            if isinstance(item, kind):
                value = item(value).detach()
            else:
                others += [(module, item) for module in modules]
        for module in modules:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        weight_of(modules[0]).data.copy_(value)
    return others

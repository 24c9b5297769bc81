"""How a compressed model differs from the ordinary one of its configuration: shapes, modules, ties and marks.

Saving, loading, copying layers and the skeletons of plans all go through it, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress_exp.layers.shapes import Shapes, restore, uneven
from compress_exp.layers.sharing import fits, share, shareable, shared_blocks
from compress_exp.layers.stored import Stored, kinds
from compress_exp.layers.surgery import mark_pruned, pruned_modules, replace_module
from compress_exp.models.families.base import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Blueprint:
    """What an ordinary model has to become, module by module.

    Attributes:
        shapes: heads and neurons that its configuration cannot say, see `layers.shapes`.
        modules: kind and specification of each module that is not the architecture's, by name.
        tied: modules that have their tensors from another one, by name.
        pruned: modules whose weight has zeros that were made by pruning.
        shared: blocks that have all that they can from another one, see `layers.sharing`, by name.
    """

    shapes: Shapes = field(default_factory=dict)
    modules: Mapping[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    pruned: tuple[str, ...] = ()
    shared: Mapping[str, str] = field(default_factory=dict)

    @property
    def ordinary(self) -> bool:
        """Whether there is nothing to change."""
        return not (self.shapes or self.modules or self.pruned or self.shared)

    def absent(self, model: nn.Module) -> set[str]:
        """The tensors that tied modules and blocks do not store.

        Args:
            model: has the modules that this tells of.
        """
        known = {name: kinds().get(self.modules[name][0]) for name in self.tied if name in self.modules}
        tied = {f"{name}.{part}" for name, kind in known.items() if kind is not None for part in kind.shared}
        return tied | {f"{name}.{part}" for name in self.shared for part in shareable(model.get_submodule(name))}

    def renamed(self, source: Callable[[str], str], names: Iterator[str]) -> Blueprint:
        """The same for a copy in which modules have other names.

        Args:
            source: what a module of the copy is called here.
            names: the modules of the copy.
        """
        old = {name: source(name) for name in names if name}
        new = {before: name for name, before in reversed(old.items())}  # several copies are tied to the first
        owners = {*self.shared.values()}
        groups = {n: self.shared.get(b, b) for n, b in old.items() if b in owners or b in self.shared}
        first = {group: name for name, group in reversed(groups.items())}
        return Blueprint(
            {what: {n: told[b] for n, b in old.items() if b in told} for what, told in self.shapes.items()},
            {n: self.modules[b] for n, b in old.items() if b in self.modules},
            {n: new[self.tied[b]] for n, b in old.items() if self.tied.get(b) in new},
            tuple(n for n, b in old.items() if b in self.pruned),
            {name: first[group] for name, group in groups.items() if first[group] != name},
        )


def describe(model: PreTrainedModel) -> Blueprint:
    """The blueprint of a model whose modules are the architecture's and those of this package."""
    family = family_of(model.config.model_type)
    shared = shared_blocks(model, family)
    inside = tuple(f"{name}." for name in shared)
    stored = [(name, module) for name, module in model.named_modules() if isinstance(module, Stored)]
    first: dict[tuple[int, ...], str] = {}
    tied: dict[str, str] = {}
    for name, module in stored:
        if module.shared and not name.startswith(inside):
            place = tuple(getattr(module, part).data_ptr() for part in module.shared)
            if (owner := first.setdefault(place, name)) != name:
                tied[name] = owner
    return Blueprint(
        uneven(model, family),
        {name: (module.kind, module.spec()) for name, module in stored},
        tied,
        tuple(name for name, _ in pruned_modules(model)),
        shared,
    )


def apply(model: PreTrainedModel, blueprint: Blueprint) -> list[str]:
    """Give an ordinary model, best on the meta device, the shapes and modules of a compressed one.

    Ties and marks come with the weights, see `finish`.

    Returns:
        A phrase for each module that the model does not have as the blueprint says; then its modules are as they were.
    """
    if wrong := list(_misnamed(model, blueprint)):
        return wrong
    restore(model, family_of(model.config.model_type), blueprint.shapes)
    for name in sorted(blueprint.modules, key=lambda name: name.count(".")):  # the outer ones first
        kind, spec = blueprint.modules[name]
        try:
            replace_module(model, name, kinds()[kind].build(model.get_submodule(name), spec))
        except ValueError as error:
            wrong.append(f"{name} {error}")
    return wrong or list(_unlike(model, blueprint))


def finish(model: PreTrainedModel, blueprint: Blueprint) -> None:
    """Tie and mark what the blueprint says, once the weights are there."""
    for name, source in blueprint.tied.items():
        holder, owner = model.get_submodule(name), model.get_submodule(source)
        assert isinstance(holder, Stored)
        for part in holder.shared:
            setattr(holder, part, getattr(owner, part))
    for name, source in blueprint.shared.items():
        share(model.get_submodule(name), model.get_submodule(source))
    for name in blueprint.pruned:
        mark_pruned(model.get_submodule(name))


def _misnamed(model: nn.Module, blueprint: Blueprint) -> Iterator[str]:
    names = {name for name, _ in model.named_modules()}
    shaped = [name for told in blueprint.shapes.values() for name in told]
    told = (*blueprint.modules, *blueprint.tied, *blueprint.pruned, *blueprint.shared, *shaped)
    for name in dict.fromkeys(told):
        if name not in names and not any(name.startswith(f"{outer}.") for outer in blueprint.modules):
            yield f"{name} is no module of {type(model).__name__}"
    for name, (kind, _) in blueprint.modules.items():
        if kind not in kinds():
            yield f"{name} is of kind {kind!r}, which this release does not know"


def _unlike(model: nn.Module, blueprint: Blueprint) -> Iterator[str]:
    """Ties of modules and blocks that cannot share their tensors."""
    modules = dict(model.named_modules())
    for name, source in blueprint.tied.items():
        holder, owner = modules.get(name), modules.get(source)
        parts = holder.shared if isinstance(holder, Stored) else ()
        shapes = [[getattr(one, part, torch.empty(0)).shape for part in parts] for one in (holder, owner)]
        if not parts or not isinstance(owner, Stored) or shapes[0] != shapes[1]:
            yield f"{name} cannot share the weight of {source}"
    for name, source in blueprint.shared.items():
        if source in blueprint.shared or source not in modules or not fits(modules[name], modules[source]):
            yield f"{name} cannot share the weights of {source}"

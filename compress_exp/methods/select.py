"""Which weights a method works on, chosen by role and by name."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn

from compress_exp.config.checks import FieldError
from compress_exp.config.identity import settings
from compress_exp.layers.stored import Stored
from compress_exp.layers.weights import original
from compress_exp.models.families.base import Family, roles

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OUTSIDE_BLOCKS = ("embedding", "position_embedding", "relative_bias", "head")


@dataclass(frozen=True, kw_only=True)
class Select:
    """The weights that a method works on; by default every projection of every block.

    Attributes:
        roles: roles to take ("query", "ffn_in", "cross.key", "embedding", "head" …), with the factors of a projection
            that was factored; null takes every projection of the blocks and leaves embeddings, heads, norms and biases
            alone.
        include: shell patterns of module names; only matching ones are taken.
        exclude: shell patterns of module names that are left out.
    """

    roles: tuple[str, ...] | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.include:
            raise FieldError("include", "an empty list selects nothing; leave it out to take every module")

    def identity(self) -> dict[str, object]:
        """What decides the selection, for the key of the artifact."""
        return settings(self)

    def may_take(self, role: str) -> bool:
        """Whether some module of that role may be selected, whatever its name."""
        if self.roles is None:
            return role not in OUTSIDE_BLOCKS
        return any(f"{role}.".startswith(f"{one}.") for one in self.roles)

    def takes_all(self, role: str) -> bool:
        """Whether every module of that role is selected."""
        return self.may_take(role) and "*" in self.include and not self.exclude

    def takes(self, name: str, role: str) -> bool:
        """Whether the module of that name and role is selected."""
        included = any(fnmatchcase(name, pattern) for pattern in self.include)
        return self.may_take(role) and included and not any(fnmatchcase(name, pattern) for pattern in self.exclude)


@dataclass(frozen=True)
class Target:
    """One weight with every module that holds it (tied weights have several holders, and are taken once).

    Attributes:
        names: the holders' names.
        role: the first holder's role.
        modules: the holders.
    """

    names: tuple[str, ...]
    role: str
    modules: tuple[nn.Module, ...]


def targets(model: PreTrainedModel, family: Family, select: Select) -> list[Target]:
    """The selected weights, each once, in the order of the modules.

    Raises:
        FieldError: no weight matched.
    """
    found = matching(model, family, select)
    if not found:
        known = ", ".join(sorted(known_roles(model, family)))
        example = next(iter(roles(model, family)), "")
        raise FieldError("select", f"no weight matched; roles of this model: {known}; names are such as {example}")
    return found


def matching(model: PreTrainedModel, family: Family, select: Select) -> list[Target]:
    """The selected weights that are not packed, each once, in the order of the modules; there may be none."""
    holders: dict[int, list[tuple[str, str, nn.Module]]] = {}
    for name, (role, module) in roles(model, family).items():
        if isinstance(module, Stored):
            continue
        holders.setdefault(id(original(module)), []).append((name, role, module))
    return [
        Target(tuple(name for name, _, _ in group), group[0][1], tuple(module for _, _, module in group))
        for group in holders.values()
        if any(select.takes(name, role) for name, role, _ in group)
    ]


def known_roles(model: PreTrainedModel, family: Family) -> set[str]:
    """The roles that occur in a model."""
    return {role for role, _ in roles(model, family).values()}

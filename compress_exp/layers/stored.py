"""What a module is that stays in a compressed model in place of an ordinary one.

Its file in `layers/` is all that a new way of storing needs: saving, loading, copying layers and counting bytes go
through the methods below. An artifact names kinds by their pinned name, and only kinds of this directory and of
`layers` in packages that the user names are found; nothing is imported because an artifact says so.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from compress_exp.config.checks import UserError
from compress_exp.config.plugins import modules


class Stored(nn.Module, ABC):
    """A module of a compressed model; its state dict is what is stored.

    Attributes:
        kind: the pinned name by which artifacts call it.
        shared: tensors that another module of this sort has instead, where the two are tied.
        entropy: tensors of integers that codecs may pack further.
        parts: children that hold its weights, the one that reads its input first: linear layers with roles of their own
            (`query.first`), which later stages mask, quantize and cut like any other.
    """

    kind: ClassVar[str]
    shared: ClassVar[tuple[str, ...]] = ()
    entropy: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abstractmethod
    def build(cls, plain: nn.Module, spec: dict[str, Any]) -> Self:
        """An empty one in place of an ordinary module, also on the meta device.

        Args:
            plain: of the architecture.
            spec: what `spec` said of the module that is to come.

        Raises:
            ValueError: it does not go there; a phrase such as "is LayerNorm and no Linear".
        """

    def spec(self) -> dict[str, Any]:
        """What `build` needs beside the ordinary module; JSON-able."""
        return {}

    @property
    def largest_code(self) -> int | None:
        """The largest magnitude of its codes, where it multiplies them with unsigned 8-bit inputs; None elsewhere."""
        return None

    @property
    def packed(self) -> str | None:
        """The type of its codes, such as "u4", where runtimes multiply floats with them as they are; None elsewhere."""
        return None

    def runs_in(self, device: str, floating: str) -> str | None:
        """What its product runs in where nothing is exported, such as "u8"; None where it makes none.

        Args:
            device: "cpu" or "cuda".
            floating: the precision of the model's floating values, "f32" or "bf16".
        """
        return None

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrix that it stands for, in float32: (out, in) where it is linear, (entries, width) of an embedding."""


def kinds() -> dict[str, type[Stored]]:
    """Every kind by its name, from the files beside this one and those of the user's packages.

    Raises:
        UserError: two files have a kind of one name.
    """
    return _kinds(tuple(modules("compress_exp.layers").values()))


@functools.lru_cache
def _kinds(files: tuple[str, ...]) -> dict[str, type[Stored]]:
    found: dict[str, type[Stored]] = {}
    for name in files:
        values = vars(importlib.import_module(name)).values()
        own = [value for value in values if isinstance(value, type) and value.__module__ == name]
        for value in [value for value in own if issubclass(value, Stored) and not inspect.isabstract(value)]:
            if (other := found.get(value.kind)) is not None:
                raise UserError(f"plugins: {name} has the kind {value.kind!r} of {other.__module__}; rename it")
            found[value.kind] = value
    return found

"""What a module is that stays in a compressed model in place of an ordinary one.

Its file in `layers/` is all that a new way of storing needs: saving, loading, copying layers and counting bytes go
through the methods below. An artifact names kinds by their pinned name, and only kinds of this directory are found;
nothing is imported because an artifact says so.
"""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn


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

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrix that it stands for, in float32: (out, in) where it is linear, (entries, width) of an embedding."""


@functools.cache
def kinds() -> dict[str, type[Stored]]:
    """Every kind by its name, from the files beside this one."""
    found: dict[str, type[Stored]] = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        name = f"{__package__}.{file.stem}"
        values = vars(importlib.import_module(name)).values()
        own = [value for value in values if isinstance(value, type) and value.__module__ == name]
        found |= {value.kind: value for value in own if issubclass(value, Stored) and value is not Stored}
    return found

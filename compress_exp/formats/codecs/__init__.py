"""Smaller forms of tensors on disk: one file each, found by its name; the smallest form of a tensor wins.

A codec has `PIECES`, the names of the tensors that it makes of one, and four functions:

- `size(tensor, inputs)`: bytes of its form, None where it has none;
- `encode(tensor, inputs)`: the pieces by name;
- `decode(pieces, shape, inputs)`: the tensor again; a ValueError with a phrase where they do not fit each other;
- `expected(kinds, kind, inputs)`: what kinds the pieces of a tensor of one kind must have, given those they have; a
  ValueError with a phrase about the values where no tensor fits them.

`inputs` is the axis of the tensor along which the inputs of a layer lie.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor

from compress_exp.config.plugins import modules

Kind = tuple[str, tuple[int, ...]]
"""The dtype, as safetensors calls it, and the shape."""


class Codec(Protocol):
    """What the modules of this package have."""

    PIECES: tuple[str, ...]

    def size(self, tensor: Tensor, inputs: int) -> int | None:
        """Bytes."""

    def encode(self, tensor: Tensor, inputs: int) -> dict[str, Tensor]:
        """To pieces."""

    def decode(self, pieces: Mapping[str, Tensor], shape: torch.Size, inputs: int) -> Tensor:
        """From pieces."""

    def expected(self, kinds: Mapping[str, Kind], kind: Kind, inputs: int) -> dict[str, Kind]:
        """Kinds of pieces."""


def codecs() -> dict[str, Codec]:
    """Every codec by the name of its file, ours and those of the user's packages."""
    return {name: importlib.import_module(module) for name, module in modules("compress_exp.formats.codecs").items()}


def with_pieces(names: Collection[str]) -> str | None:
    """The codec that makes exactly these pieces; None where none does."""
    return next((name for name, codec in codecs().items() if set(codec.PIECES) == set(names)), None)


def smallest(tensor: Tensor, inputs: int) -> str | None:
    """The codec whose form of a tensor takes the fewest bytes; None where the dense form does."""
    sizes = {name: codec.size(tensor, inputs) for name, codec in codecs().items()}
    best: tuple[int, str | None] = (tensor.numel() * tensor.element_size(), None)
    for name, size in sizes.items():
        if size is not None and size < best[0]:
            best = (size, name)
    return best[1]

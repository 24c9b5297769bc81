"""Blocks that have their tensors from another block: which do, and how they get them.

A block that shares keeps its own modules, and with them its place in a key-value cache and what it alone computes
(T5's bias of positions); parameters, and the codes of packed modules, are those of the other one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn

from compress_exp.layers.stored import Stored
from compress_exp.layers.surgery import is_pruned, mark_pruned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress_exp.models.families.base import Family


def shareable(block: nn.Module) -> dict[str, Tensor]:
    """What a block may have from another one, by name: its parameters, and buffers but those that packed modules keep.

    An `Int8Linear`, say, shares its codes and their scales; the grid of its inputs is of its own place.
    """
    found: dict[str, Tensor] = dict(block.named_parameters(remove_duplicate=False))
    for name, module in block.named_modules():
        own = module.shared if isinstance(module, Stored) else module._buffers
        parts = {part: getattr(module, part) for part in own}
        found |= {f"{name}.{part}".lstrip("."): value for part, value in parts.items() if isinstance(value, Tensor)}
    return found


def fits(holder: nn.Module, owner: nn.Module) -> bool:
    """Whether a block can have all that it may from another one, which has tensors of the same names and shapes."""
    given = shareable(owner)
    wanted = shareable(holder)
    return bool(wanted) and all(
        name in given and given[name].shape == tensor.shape and given[name].dtype == tensor.dtype
        for name, tensor in wanted.items()
    )


def share(holder: nn.Module, owner: nn.Module) -> None:
    """Let a block have its tensors, and their marks, from another one; both stay modules of their own."""
    for name in shareable(holder):
        place, _, part = name.rpartition(".")
        own, other = holder.get_submodule(place), owner.get_submodule(place)
        setattr(own, part, getattr(other, part))
        mark_pruned(own, is_pruned(other))


def shared_blocks(model: PreTrainedModel, family: Family) -> dict[str, str]:
    """Blocks that have all their tensors from an earlier one: name -> that one's name."""
    found: dict[str, str] = {}
    owners: list[tuple[str, dict[str, Tensor]]] = []
    for name, block in blocks_of(model, family):
        own = shareable(block)
        owner = next((other for other, given in owners if _same(own, given)), None)
        if owner is None:
            owners.append((name, own))
        else:
            found[name] = owner
    return found


def blocks_of(model: PreTrainedModel, family: Family) -> Iterator[tuple[str, nn.Module]]:
    """Every block with its name, in order."""
    for name, module in model.named_modules():
        if family.block_of(f"{name}.") == name:
            yield name, module


def _same(own: dict[str, Tensor], given: dict[str, Tensor]) -> bool:
    return bool(own) and all(given.get(name) is tensor for name, tensor in own.items())

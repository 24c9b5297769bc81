"""Replacing modules and remembering what was pruned in them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

MARK = "compress_exp_pruned"


def mark_pruned(module: nn.Module, pruned: bool = True) -> None:
    """Remember that the zeros of this module's weight were made by pruning; the mark is copied with the module."""
    setattr(module, MARK, pruned)


def is_pruned(module: nn.Module) -> bool:
    """Whether the zeros of this module's weight were made by pruning."""
    return bool(getattr(module, MARK, False))


def pruned_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose weight was pruned, by name."""
    return ((name, module) for name, module in model.named_modules() if is_pruned(module))


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` where the module called `name` is; mode and mark carry over."""
    old = model.get_submodule(name)
    new.train(old.training)
    if is_pruned(old):
        mark_pruned(new)
    model.set_submodule(name, new)

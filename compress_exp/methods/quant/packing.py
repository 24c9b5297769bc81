"""What all methods share that put weights on a grid while they train and pack them at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress_exp.layers.stored import Stored
from compress_exp.layers.surgery import replace_module
from compress_exp.layers.weights import original, weight_of
from compress_exp.methods.parametrized import attached, parametrized

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def pack_all(model: PreTrainedModel, grid: type[nn.Module], pack: Callable[[nn.Module], Stored]) -> PreTrainedModel:
    """Replace every module whose weight passes through a grid; tied weights, and biases, are packed once.

    Args:
        model: is changed.
        grid: the kind of parametrization.
        pack: what takes a module's place.
    """
    chosen = {id(module) for module in parametrized(model) if attached(module, grid)}
    firsts: dict[int, tuple[nn.Module, Stored]] = {}
    made: dict[int, Stored] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) not in chosen:
            continue
        if id(module) not in made:
            made[id(module)] = new = pack(module)
            before, first = firsts.setdefault(id(original(module)), (module, new))
            for tensor in type(new).shared:
                setattr(new, tensor, getattr(first, tensor))
            if hasattr(new, "bias") and hasattr(first, "bias") and module.bias is before.bias:
                new.bias = first.bias
        replace_module(model, name, made[id(module)])
    return model


def quantization_error(model: PreTrainedModel, grid: type[nn.Module]) -> dict[str, float]:
    """‖W − Q(W)‖² / ‖W‖² over the weights that pass through a grid."""
    error = energy = 0.0
    with torch.no_grad():
        for module in parametrized(model):
            if attached(module, grid):
                error += float((weight_of(module) - original(module)).square().sum())
                energy += float(original(module).square().sum())
    return {"quantization_error": error / energy if energy else 0.0}

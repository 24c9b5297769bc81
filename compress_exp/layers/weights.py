"""The weight of a module, and what it passes through while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def weight_of(module: nn.Module) -> Tensor:
    """A module's weight as the model sees it: masked, fake-quantized, …"""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight


def parametrizations(module: nn.Module) -> Sequence[nn.Module]:
    """What a module's weight passes through, in order; nothing where it is an ordinary parameter."""
    found: Any = getattr(module, "parametrizations", None)
    return found["weight"] if found is not None and "weight" in found else ()


def original(module: nn.Module) -> Tensor:
    """The trained tensor behind a module's weight, whatever parametrizes it."""
    passed: Any = parametrizations(module)
    return passed.original if passed else weight_of(module)

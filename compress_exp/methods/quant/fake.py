"""Fake quantization: float tensors rounded to an integer grid, gradients passed straight through.

Weights: symmetric per output channel, s = max|w| / L, grid ±L with L = 127, or 63 where products with uint8 inputs must
not overflow on CPUs without VNNI (see `compress_exp.layers.int8`). Activations: affine per tensor on uint8,
s = (max − min) / 255, z = round(−min / s), with the range widened to hold zero (Jacob et al. 2018, arXiv:1712.05877).
The gradient of rounding is taken as 1 inside the range and 0 outside (Bengio et al. 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from compress_exp.config.checks import FieldError
from compress_exp.methods.parametrized import GRIDS
from compress_exp.models.finite import nonfinite
from compress_exp.parallel import ranks

TINY = 1e-8


def row_scale(weight: Tensor, axis: int, limit: int) -> Tensor:  # (channels,)
    """The scale of each channel: max|w| / limit, never zero."""
    others = [dim for dim in range(weight.dim()) if dim != axis]
    return (weight.detach().abs().amax(dim=others) / limit).clamp(min=TINY)


def input_grid(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:  # () and () -> (), () int32
    """Scale and zero point of a uint8 grid over [low, high] and zero."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / 255).clamp(min=TINY)
    return scale, (-low / scale).round().clamp(0, 255).to(torch.int32)


class FakeQuantWeight(nn.Module):
    """Rounds a weight to the int8 grid of its present values.

    Args:
        axis: the axis of output channels: 0, or 1 for GPT-2's Conv1D.
        limit: the largest code, 127 or 63.
    """

    place: ClassVar[int] = GRIDS

    def __init__(self, axis: int, limit: int) -> None:
        super().__init__()
        self.axis, self.limit = axis, limit

    def forward(self, weight: Tensor) -> Tensor:
        """The nearest grid points."""
        scale = row_scale(weight, self.axis, self.limit)
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        rounded: Tensor = torch.fake_quantize_per_channel_affine(
            weight, scale, zeros, self.axis, -self.limit, self.limit
        )
        return rounded


class FakeQuantInput(nn.Module):
    """Rounds a layer's input to a uint8 grid whose range is averaged while it observes.

    Attributes:
        low, high: the range; averages of the batches' minima and maxima (over the rows of all ranks).
        observing: whether batches move the range.
        seen: how many batches did.
    """

    low: Tensor
    high: Tensor
    seen: Tensor
    observing: Tensor

    def __init__(self, average: float) -> None:
        super().__init__()
        self.average = average
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("observing", torch.ones((), dtype=torch.bool))

    def forward(self, inputs: Tensor) -> Tensor:
        """Observe if asked to, then round.

        Raises:
            FieldError: what is observed is not finite.
        """
        if bool(self.observing):
            self._observe(inputs.detach())
        scale, zero_point = input_grid(self.low, self.high)
        rounded: Tensor = torch.fake_quantize_per_tensor_affine(inputs.float(), scale, zero_point, 0, 255)
        return rounded.to(inputs.dtype)

    def _observe(self, inputs: Tensor) -> None:
        low, high = torch.aminmax(inputs.float())
        if not bool(low.isfinite() & high.isfinite()):  # rounding would turn NaN into a grid point like any other
            where = f"the inputs that set the range of a layer of {inputs.shape[-1]} inputs"
            raise FieldError(
                "", f"{where} are not finite, {nonfinite(inputs)}; lower train.learning_rate, here or before"
            )
        low, high = ranks.all_min(low), ranks.all_max(high)
        # The plain mean until it covers as many batches as the moving average would.
        share = max(1.0 / (int(self.seen) + 1), 1.0 - self.average)
        self.low += share * (low - self.low)
        self.high += share * (high - self.high)
        self.seen += 1


def quantize_input(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The forward pre-hook of a layer with a child `input_quantizer`."""
    return (module.input_quantizer(arguments[0]), *arguments[1:])  # type: ignore[operator]

"""Weights rounded to integers of four or eight bits in small groups; activations and arithmetic stay in floats.

Round to nearest, without data and without training: every group of `group_size` neighbouring inputs of an output
channel gets the grid over its range and zero, asymmetric s = (max − min) / (2^b − 1), z = round(−min / s),
q = round(w / s) + z, or symmetric s = max|w| / (2^(b−1) − 1) with z in the middle (Jacob et al. 2018, arXiv:1712.05877;
in groups: Yao et al. 2022, arXiv:2206.01861; as the baseline of GPTQ: Frantar et al. 2022, arXiv:2210.17323). s is a
float16, so a weight takes b + (16 + b) / group_size bits: 4.16 by default. z is an integer, so pruned zeros stay zeros.
The last group of a row may be shorter. With a budget, weights train on the grid of their present values, gradients
passed straight through.
Cost: one pass over the weights. Pays where memory is what limits speed: small batches, generation, large models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from compress_exp.config.checks import FieldError
from compress_exp.layers.weight_only import (
    Grouped,
    WeightOnlyEmbedding,
    WeightOnlyLinear,
    check_grid,
    grouped,
    values,
)
from compress_exp.layers.weights import original, parametrizations
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import GRIDS, attach
from compress_exp.methods.quant.packing import pack_all, quantization_error
from compress_exp.methods.select import targets
from compress_exp.models.families.base import is_conv1d, is_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OTHER_TABLES = ("position_embedding", "relative_bias")
SMALLEST = 2.0**-24  # of float16


def grid(
    rows: Tensor,  # (out, in)
    bits: int,
    group_size: int,
    symmetric: bool,
) -> tuple[Tensor, Tensor]:  # float16 (out, groups), uint8 (out, groups)
    """Scales and zero points over the range of each group and zero."""
    groups = grouped(rows.detach().float(), group_size)
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    if symmetric:
        scales = _half_above(torch.maximum(-low, high) / (2 ** (bits - 1) - 1))
        return scales, torch.full_like(scales, 2 ** (bits - 1), dtype=torch.uint8)
    scales = _half_above((high - low) / (2**bits - 1))
    return scales, (-low / scales).round().clamp(0, 2**bits - 1).to(torch.uint8)


def _half_above(scales: Tensor) -> Tensor:  # float32, not negative -> float16
    """The next float16, so that no grid ends before its range: a weight is never further off than half a step."""
    near = scales.half()
    above = torch.where(near.float() < scales, (near.view(torch.int16) + 1).view(torch.float16), near)
    return above.clamp(min=SMALLEST)


def nearest(rows: Tensor, scales: Tensor, zeros: Tensor, bits: int, group_size: int) -> Tensor:  # (out, in) -> uint8
    """The codes of the grid points nearest to a matrix."""
    groups = grouped(rows.detach().float(), group_size) / scales.unsqueeze(2)
    codes = (groups.round() + zeros.unsqueeze(2)).clamp(0, 2**bits - 1)
    return codes.flatten(1)[:, : rows.shape[1]].to(torch.uint8)


class FakeQuantGroups(nn.Module):
    """Rounds a weight to the grid of its present values.

    Args:
        transposed: whether the weight is that of GPT-2's Conv1D, input × output.
        bits: of a code.
        group_size: inputs that share a scale.
        symmetric: whether the grid is.
    """

    place: ClassVar[int] = GRIDS

    def __init__(self, transposed: bool, bits: int, group_size: int, symmetric: bool) -> None:
        super().__init__()
        self.transposed, self.bits, self.group_size, self.symmetric = transposed, bits, group_size, symmetric

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (out, in), scales and zero points (out, groups)."""
        rows = weight.T if self.transposed else weight
        scales, zeros = grid(rows, self.bits, self.group_size, self.symmetric)
        return nearest(rows, scales, zeros, self.bits, self.group_size), scales, zeros

    def forward(self, weight: Tensor) -> Tensor:
        """The nearest grid points; as gradients see them, the weight itself."""
        rounded = values(*self.quantize(weight), self.group_size)
        return (rounded.T if self.transposed else rounded).to(weight.dtype) + (weight - weight.detach())


@dataclass(frozen=True, kw_only=True)
class WeightOnly(Method):
    """Integer weights in groups, multiplied as floats.

    Attributes:
        bits: of a weight, 4 or 8.
        group_size: how many neighbouring inputs share a scale and a zero point, a power of two from 16 on; -1
            for whole rows.
        symmetric: whether zero lies in the middle of every grid.
    """

    origin: ClassVar[str] = "quant/weight_only"

    bits: int = 4
    group_size: int = 128
    symmetric: bool = False

    packs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            check_grid(self.bits, self.group_size)
        except ValueError as error:
            key, _, told = str(error).partition("=")
            raise FieldError(key, told) from error

    def check(self, facts: Facts) -> Facts:
        """Packed weights are final; of tables, only those of words are packed."""
        if refused := set(self.select.roles or ()) & set(OTHER_TABLES):
            what = f"{', '.join(sorted(refused))} cannot be packed"
            raise FieldError("select.roles", f"{what}; take projections, embedding or head")
        return super().check(facts)

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Put every chosen weight on the grid of its values."""
        for target in targets(model, context.family, self.select):
            transposed = is_conv1d(target.modules[0])
            attach(target.modules, FakeQuantGroups(transposed, self.bits, self.group_size, self.symmetric))
        return model

    def convert(self, work: Work) -> PreTrainedModel:
        """Replace the chosen modules by packed ones; tied weights are packed once."""
        return pack_all(work.model, FakeQuantGroups, self._pack)

    def curves(self, work: Work) -> dict[str, float]:
        """‖W − Q(W)‖² / ‖W‖² over the quantized weights."""
        return quantization_error(work.model, FakeQuantGroups)

    def _pack(self, module: nn.Module) -> Grouped:
        with torch.no_grad():
            weight = original(module)
            *before, last = parametrizations(module)
            for item in before:
                weight = item(weight)
            assert isinstance(last, FakeQuantGroups)
            codes, scales, zeros = last.quantize(weight)
        empty = WeightOnlyLinear if is_linear(module) else WeightOnlyEmbedding
        new = empty.build(module, {"bits": self.bits, "group_size": self.group_size}).fill(codes, scales, zeros)
        if isinstance(new, WeightOnlyLinear) and new.bias is not None:
            new.bias = nn.Parameter(module.bias.detach().float().clone())  # type: ignore[operator]
        return new

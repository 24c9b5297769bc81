"""Packed weights in graphs: constants of 4 or 8 bits that the runtimes' own kernels unpack.

OpenVINO: Constant (u4 or u8) → Convert → Subtract → Multiply → Reshape, which its CPU plugin keeps packed. Where the
last group of a row is shorter, or no multiple of 16, the weight is filled up, and a layer's input with zeros.
ONNX: `com.microsoft.MatMulNBits` and `GatherBlockQuantized`, whose blocks are powers of two from 16 to 128 (scales of
larger groups are repeated); the accuracy level that multiplies floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress_exp.layers.weight_only import (
    SMALLEST_GROUP,
    Grouped,
    WeightOnlyEmbedding,
    WeightOnlyLinear,
    group_of,
    grouped,
    pack,
)

LARGEST_BLOCK = 128
FLOATS = 1
"""The accuracy level of products in float32."""


def openvino(layer: Grouped) -> Callable[[Any], Any]:
    """The nodes of a layer or a table, given the node of its input."""
    import openvino.opset14 as opset

    codes, zeros = layer.unpacked()
    groups = grouped(codes, layer.group_size)
    # Rows of an odd number of 4-bit codes are multiplied wrongly, silently (2026.4).
    groups = functional.pad(groups, (0, -groups.shape[2] % SMALLEST_GROUP))
    kind = f"u{layer.bits}"
    whole = opset.convert(_constant(groups, kind), "f32")
    whole = opset.subtract(whole, opset.convert(_constant(zeros.unsqueeze(2), kind), "f32"))
    whole = opset.multiply(whole, opset.convert(opset.constant(layer.scales.unsqueeze(2).numpy()), "f32"))
    matrix = opset.reshape(whole, opset.constant(np.array([len(codes), -1])), False)
    missing = groups.shape[1:].numel() - layer.width
    bias: Any = getattr(layer, "bias", None)
    factor: Any = getattr(layer, "embed_scale", 1.0)

    def product(inputs: Any) -> Any:
        if missing:
            rank = inputs.get_partial_shape().rank.get_length()
            ends = opset.constant(np.array([*[0] * (rank - 1), missing]))
            inputs = opset.pad(inputs, opset.constant(np.zeros(rank, dtype=np.int64)), ends, "constant", np.float32(0))
        result = opset.matmul(inputs, matrix, False, True)
        return result if bias is None else opset.add(result, opset.constant(bias.detach().numpy()))

    def rows(ids: Any) -> Any:
        found = opset.gather(matrix, ids, opset.constant(np.array(0)))
        if missing:
            start, end, step, axis = (opset.constant(np.array([value])) for value in (0, layer.width, 1, -1))
            found = opset.slice(found, start, end, step, axis)
        return found if factor == 1.0 else opset.multiply(found, opset.constant(np.float32(factor)))

    return product if isinstance(layer, WeightOnlyLinear) else rows


def _constant(codes: Tensor, kind: str) -> Any:  # uint8, one code each
    import openvino
    from openvino.op import Constant

    packed = pack(codes.reshape(1, -1), int(kind[1:])).numpy()
    tensor = openvino.Tensor(packed, openvino.Shape(list(codes.shape)), getattr(openvino.Type, kind))
    return Constant(tensor, False)  # a copy: the memory of `packed` goes


class _Product(torch.autograd.Function):
    """MatMulNBits."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, codes: Tensor, *settings: Any) -> Tensor:
        """Its shape: no value matters while tracing."""
        return inputs.new_zeros(*inputs.shape[:-1], len(codes))

    @staticmethod
    def symbolic(g: Any, inputs: Any, codes: Any, scales: Any, zeros: Any, width: int, bits: int, block: int) -> Any:
        """The node."""
        rows = codes.type().sizes()[0]
        grid = {"K_i": width, "N_i": rows, "bits_i": bits, "block_size_i": block, "accuracy_level_i": FLOATS}
        product = g.op("com.microsoft::MatMulNBits", inputs, codes, scales, zeros, **grid)
        product.setType(inputs.type().with_sizes([*inputs.type().varyingSizes()[:-1], rows]))
        return product


class _Rows(torch.autograd.Function):
    """GatherBlockQuantized."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, width: int, *grid: Any) -> Tensor:
        """Its shape."""
        return scales.new_zeros(*ids.shape, width)

    @staticmethod
    def symbolic(g: Any, ids: Any, codes: Any, scales: Any, zeros: Any, width: int, bits: int, block: int) -> Any:
        """The node."""
        grid = {"gather_axis_i": 0, "quantize_axis_i": 1, "bits_i": bits, "block_size_i": block}
        found = g.op("com.microsoft::GatherBlockQuantized", codes, ids, scales, zeros, **grid)
        found.setType(scales.type().with_sizes([*ids.type().varyingSizes(), width]))
        return found


class _Traced(nn.Module):
    """A layer or a table as the exporter sees it."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, layer: Grouped, filled: bool) -> None:
        super().__init__()
        size = group_of(layer.width, layer.group_size)
        block = max(SMALLEST_GROUP, min(LARGEST_BLOCK, 1 << (size - 1).bit_length()))
        blocks = -(-layer.width // block)
        codes, zeros = layer.unpacked()
        if filled:
            codes = functional.pad(codes, (0, -layer.width % block))
        zeros, scales = (part.repeat_interleave(-(-size // block), 1)[:, :blocks] for part in (zeros, layer.scales))
        self.grid = layer.width, layer.bits, block
        self.register_buffer("codes", pack(codes, layer.bits))
        self.register_buffer("scales", scales.float())
        self.register_buffer("zeros", pack(zeros, layer.bits))


class _TracedLinear(_Traced):
    """A layer, whose codes MatMulNBits takes block by block."""

    bias: Tensor | None

    def __init__(self, layer: WeightOnlyLinear) -> None:
        super().__init__(layer, filled=True)
        self.codes = self.codes.unflatten(1, (self.scales.shape[1], -1))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:  # (..., in) -> (..., out)
        product: Tensor = _Product.apply(inputs, self.codes, self.scales, self.zeros, *self.grid)
        return product if self.bias is None else product + self.bias


class _TracedEmbedding(_Traced):
    """A table."""

    def __init__(self, layer: WeightOnlyEmbedding) -> None:
        super().__init__(layer, filled=False)
        width, bits, block = self.grid
        self.whole = -(-width * bits // 8) * 8 // bits, bits, block  # what is in a row of whole bytes
        self.embed_scale = layer.embed_scale

    def forward(self, ids: Tensor) -> Tensor:  # (...) -> (..., dim)
        found: Tensor = _Rows.apply(ids, self.codes, self.scales, self.zeros, *self.whole)
        found = found if self.whole == self.grid else found[..., : self.grid[0]]
        return found if self.embed_scale == 1.0 else found * self.embed_scale


def onnx(layer: WeightOnlyLinear | WeightOnlyEmbedding) -> nn.Module:
    """What is traced for a layer or a table."""
    return _TracedLinear(layer) if isinstance(layer, WeightOnlyLinear) else _TracedEmbedding(layer)

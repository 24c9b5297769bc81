"""Int8 layers in graphs: in ONNX one `com.microsoft.MatMulIntegerToFloat` on the stored codes with scales and bias.

Integers by construction, where a pair of quantize and dequantize leaves it to the optimizer (which makes a float Gemm
of a two-dimensional one). QuantizeLinear on the trained grid is shared by all that read the same input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compress_exp.layers.int8 import Int8Linear


class _Product(torch.autograd.Function):
    """The integer matrix product with its scales and bias."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *constants: Tensor) -> Tensor:
        """Its shape: no value matters while tracing."""
        return inputs.new_zeros(*inputs.shape[:-1], constants[2].shape[0])

    @staticmethod
    def symbolic(g: Any, inputs: Any, scale: Any, zero_point: Any, codes: Any, scales: Any, bias: Any) -> Any:
        """The nodes."""
        quantized = g.op("QuantizeLinear", inputs, scale, zero_point)
        weight = g.op("Transpose", codes, perm_i=[1, 0])
        nothing = g.op("prim::Constant")
        nothing.setType(torch._C.OptionalType.ofTensor())
        product = g.op(
            "com.microsoft::MatMulIntegerToFloat", quantized, weight, scale, scales, zero_point, nothing, bias
        )
        sizes = inputs.type().varyingSizes()
        product.setType(inputs.type().with_sizes([*sizes[:-1], scales.type().sizes()[0]]))
        return product


class _TracedLinear(nn.Module):
    """An Int8Linear as the exporter sees it."""

    def __init__(self, layer: Int8Linear) -> None:
        super().__init__()
        self.register_buffer("scale", layer.input_scale)
        self.register_buffer("zero_point", layer.input_zero_point.to(torch.uint8))
        self.register_buffer("codes", layer.weight)
        self.register_buffer("scales", layer.weight_scale)
        bias = torch.zeros_like(layer.weight_scale) if layer.bias is None else layer.bias.detach()
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:  # (..., in) -> (..., out)
        return _Product.apply(inputs, *self.buffers())


def onnx(layer: nn.Module) -> nn.Module:
    """What is traced for a layer; embeddings are traced as they are."""
    return _TracedLinear(layer) if isinstance(layer, Int8Linear) else layer

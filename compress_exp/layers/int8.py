"""Modules of an int8 model: weights stored as int8 with scales, inputs on a fixed uint8 grid.

y = S_w · S_x · Σ W_q (clamp(round(x / S_x) + Z_x, 0, 255) − Z_x) + b, with W_q in ±127, one scale per output channel,
and one scale and zero point per input tensor. Two ways to the same numbers: integer kernels of oneDNN (u8·s8, weights
packed once), and a reference in floats (what exporters see, and what runs where the kernels are missing or wrong, or
gradients are wanted).

x86 CPUs without VNNI or AMX add two u8·s8 products in 16 bits (vpmaddubsw) and saturate: 2 · 255 · 127 = 64,770 does
not fit into 32,767. With codes of at most 63 the sum of two is at most 32,130, so such weights are exact everywhere.
"""

from __future__ import annotations

import functools
import platform
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.jit._trace import is_tracing
from torch.nn import functional

from compress_exp.layers.slices import inputs_of, outputs_of
from compress_exp.layers.stored import Stored
from compress_exp.models.families.base import is_linear

LOW, HIGH = 0, 255
LIMIT = 127
OVERFLOW_SAFE_LIMIT = 63


def quantize_rows(weight: Tensor, scale: Tensor) -> Tensor:  # (out, in), (out,) -> int8 (out, in)
    """The int8 grid points nearest to the rows of a matrix, by the arithmetic of `fake_quantize_per_channel_affine`."""
    inverse = (1.0 / scale.float().clamp(min=torch.finfo(torch.float32).tiny)).unsqueeze(1)
    return (weight.float() * inverse).round().clamp(-LIMIT, LIMIT).to(torch.int8)


@functools.cache
def kernels_exact(largest: int) -> bool:
    """Whether PyTorch's integer kernel is exact on this CPU for codes of at most `largest` (63 or 127).

    Elsewhere than on x86 with AVX2 it may be a reference loop thousands of times slower, and is not tried.
    """
    if platform.machine() not in ("x86_64", "AMD64") or torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return False
    try:
        weight = torch.full((16, 64), -largest, dtype=torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        codes = torch.full((2, 64), HIGH, dtype=torch.uint8)
        product = _multiply(codes, (1.0, 0), packed, torch.ones(16), torch.zeros(16, dtype=torch.int32), None)
        return bool((product == -64.0 * largest * HIGH).all())
    except (RuntimeError, AttributeError):
        return False


def largest_code(weight: Tensor) -> int:
    """The largest magnitude of a tensor of int8 codes."""
    return int(weight.to(torch.int16).abs().max()) if weight.numel() else 0


def _multiply(
    codes: Tensor, grid: tuple[float, int], packed: Tensor, weight_scale: Tensor, zeros: Tensor, bias: Tensor | None
) -> Tensor:  # uint8 (..., in) -> float (..., out)
    return torch.ops.onednn.qlinear_pointwise.default(
        codes, *grid, packed, weight_scale, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
    )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class Int8Linear(Stored):
    """A linear layer with packed weights and a static input grid.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: whether there is a bias.
    """

    kind: ClassVar[str] = "int8_linear"
    shared: ClassVar[tuple[str, ...]] = ("weight", "weight_scale")

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out_features))
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("input_zero_point", torch.zeros((), dtype=torch.int32))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)) if bias else None)
        self._ready: tuple[Any, ...] | None = None

    @classmethod
    def from_float(
        cls, weight: Tensor, bias: Tensor | None, weight_scale: Tensor, input_scale: Tensor, input_zero_point: Tensor
    ) -> Self:  # weight (out, in), weight_scale (out,)
        """Quantize a float matrix on given grids."""
        layer = cls(weight.shape[1], weight.shape[0], bias is not None)
        layer.weight = quantize_rows(weight.detach(), weight_scale)
        layer.weight_scale = weight_scale.detach().float().clone()
        layer.input_scale = input_scale.detach().float().reshape(()).clone()
        layer.input_zero_point = input_zero_point.detach().to(torch.int32).reshape(()).clone()
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().float().clone())
        return layer

    @classmethod
    def build(cls, plain: nn.Module, spec: dict[str, Any]) -> Self:
        """An empty layer of the widths of a Linear or Conv1D."""
        if not is_linear(plain):
            raise ValueError(f"is {type(plain).__name__} and no Linear")
        return cls(inputs_of(plain), outputs_of(plain), plain.bias is not None)

    def spec(self) -> dict[str, Any]:
        """The largest code: what kernels have to be exact for."""
        return {"largest_code": self.largest_code}

    @property
    def largest_code(self) -> int:
        """The largest magnitude of its codes."""
        return largest_code(self.weight)

    def runs_in(self, device: str, floating: str) -> str:
        """Integers where the kernel is exact."""
        return "u8" if device == "cpu" and self.in_integers else floating

    def dense(self) -> Tensor:  # (out, in)
        """The weights unpacked."""
        return self.weight.float() * self.weight_scale.unsqueeze(1)

    def forward(self, inputs: Tensor) -> Tensor:  # (..., in) -> (..., out)
        """Apply the layer; the result has the type of the input."""
        observed = torch.is_grad_enabled() or is_tracing() or torch.compiler.is_compiling()
        if observed or inputs.device.type != "cpu" or (packed_layer := self._packed()) is None:
            return self.reference(inputs)
        grid, inverse, packed, zeros = packed_layer
        values = inputs if inputs.dtype == torch.float32 else inputs.float()
        codes = (values * inverse).round_().add_(grid[1]).clamp_(LOW, HIGH).to(torch.uint8)
        result = _multiply(codes, grid, packed, self.weight_scale, zeros, self._parameters["bias"])
        return result if inputs.dtype == torch.float32 else result.to(inputs.dtype)

    def reference(self, inputs: Tensor) -> Tensor:
        """The same layer in floating point: the input rounded to its grid, the weights unpacked."""
        scale, zero_point = float(self.input_scale), int(self.input_zero_point)
        rounded = torch.fake_quantize_per_tensor_affine(inputs.float(), scale, zero_point, LOW, HIGH)
        return functional.linear(rounded, self.dense(), self.bias).to(inputs.dtype)

    @property
    def in_integers(self) -> bool:
        """Whether a forward pass without gradients on this CPU multiplies integers."""
        return self._packed() is not None

    def _packed(self) -> tuple[tuple[float, int], float, Tensor, Tensor] | None:
        """Input grid, its inverse, packed weights and zero points; None where the kernel is not exact."""
        # Small models spend their time here: no attribute of a Module is looked up that need not be.
        buffers: dict[str, Any] = self._buffers
        weight, scale, zero_point = buffers["weight"], buffers["input_scale"], buffers["input_zero_point"]
        versions = (_version(weight), _version(scale), _version(zero_point))
        ready = self._ready
        if ready is None or ready[0] is not weight or ready[1] is not scale or ready[2] is not zero_point:
            ready = None
        if ready is None or ready[3] != versions:
            made = None
            if kernels_exact(OVERFLOW_SAFE_LIMIT if largest_code(weight) <= OVERFLOW_SAFE_LIMIT else LIMIT):
                grid = float(scale), int(zero_point)
                packed = torch.ops.onednn.qlinear_prepack(weight, None)
                made = grid, 1.0 / grid[0], packed, torch.zeros(self.out_features, dtype=torch.int32)
            self._ready = ready = (weight, scale, zero_point, versions, made)
        return ready[4]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}

    def extra_repr(self) -> str:
        """Widths, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8Embedding(Stored):
    """An embedding with int8 rows, one scale each.

    Args:
        num_embeddings: rows.
        embedding_dim: width of a row.
        padding_idx: kept for callers that read it.
        embed_scale: a factor on the result (BART's scaled embedding).
    """

    kind: ClassVar[str] = "int8_embedding"
    shared: ClassVar[tuple[str, ...]] = ("weight", "weight_scale")

    weight: Tensor
    weight_scale: Tensor

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, embed_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx, self.embed_scale = padding_idx, embed_scale
        self.register_buffer("weight", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(num_embeddings))

    @classmethod
    def from_float(
        cls, weight: Tensor, weight_scale: Tensor, padding_idx: int | None = None, embed_scale: float = 1.0
    ) -> Self:  # (num, dim), (num,)
        """Quantize a float matrix on given grids."""
        layer = cls(weight.shape[0], weight.shape[1], padding_idx, embed_scale)
        layer.weight = quantize_rows(weight.detach(), weight_scale)
        layer.weight_scale = weight_scale.detach().float().clone()
        return layer

    @classmethod
    def build(cls, plain: nn.Module, spec: dict[str, Any]) -> Self:
        """An empty one of the size of an Embedding."""
        if not isinstance(plain, nn.Embedding):
            raise ValueError(f"is {type(plain).__name__} and no Embedding")
        scale = float(getattr(plain, "embed_scale", 1.0))
        return cls(plain.num_embeddings, plain.embedding_dim, plain.padding_idx, scale)

    def dense(self) -> Tensor:  # (num, dim)
        """The rows unpacked, without the factor on the result."""
        return self.weight.float() * self.weight_scale.unsqueeze(1)

    def forward(self, ids: Tensor) -> Tensor:  # (...) -> (..., dim)
        """Look rows up and unpack them."""
        scale = functional.embedding(ids, self.weight_scale.unsqueeze(1))
        rows = functional.embedding(ids, self.weight).float() * scale
        return rows if self.embed_scale == 1.0 else rows * self.embed_scale

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"{self.num_embeddings}, {self.embedding_dim}, embed_scale={self.embed_scale}"

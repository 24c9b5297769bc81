"""Modules whose weight alone is quantized: packed integers in groups along the inputs, multiplied as floats.

w = s · (q − z) for the weights of one group, with q and the zero point z integers of b bits and s a float16. On disk
and in memory a code is q − z and a zero point z − 2^(b−1), both modulo 2^b, the low bits of a byte first, and every row
begins a byte: what was pruned is the code 0, and a symmetric grid the zero point 0, which codecs make smaller. Products
s · (q − z) are exact in float32 (at most 20 bits), so that all who unpack them get the same matrix. PyTorch has no
kernel that is fast for them: there a layer unpacks its matrix once and keeps it, so that it takes as much memory and
time as a dense one (a product with one row would take up to a hundred times as long with its unpacking).
"""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.jit._trace import is_tracing
from torch.nn import functional

from compress_exp.layers.slices import inputs_of, outputs_of
from compress_exp.layers.stored import Stored
from compress_exp.models.families.base import is_linear

BITS = (4, 8)
SMALLEST_GROUP = 16


def check_grid(bits: Any, group_size: Any) -> None:
    """Refuse a grid that is not stored.

    Groups are powers of two: ONNX Runtime has no others, and OpenVINO multiplies fewer than five rows by 4-bit groups
    of 48 or 80 inputs wrongly, silently (2026.4, AVX-512).

    Raises:
        ValueError: a phrase, such as "bits=3 is not among 4 and 8".
    """
    if type(bits) is not int or bits not in BITS:
        raise ValueError(f"bits={bits!r} is not among {' and '.join(map(str, BITS))}")
    known = type(group_size) is int and group_size >= SMALLEST_GROUP and group_size.bit_count() == 1
    if not known and group_size != -1:
        raise ValueError(
            f"group_size={group_size!r} is no power of two from {SMALLEST_GROUP} on, nor -1 for whole rows"
        )


def group_of(width: int, group_size: int) -> int:
    """The inputs of a group of a row; the last one of a row may have fewer."""
    return width if group_size == -1 else min(width, group_size)


def grouped(rows: Tensor, group_size: int) -> Tensor:  # (out, in) -> (out, groups, inputs of a group)
    """Rows in groups, the last one filled up with zeros."""
    size = group_of(rows.shape[1], group_size)
    return functional.pad(rows, (0, -rows.shape[1] % size)).unflatten(1, (-1, size))


def repeated(groups: Tensor, width: int, group_size: int) -> Tensor:  # (out, groups) -> (out, in)
    """What is said of groups, for each of their inputs."""
    return groups.repeat_interleave(group_of(width, group_size), 1)[:, :width]


def values(
    codes: Tensor,  # q, uint8 (out, in)
    scales: Tensor,  # s, float16 (out, groups)
    zeros: Tensor,  # z, uint8 (out, groups)
    group_size: int,
) -> Tensor:  # float32 (out, in)
    """The weights s · (q − z)."""
    whole = grouped(codes, group_size).float() - zeros.unsqueeze(2).float()
    return (whole * scales.unsqueeze(2).float()).flatten(1)[:, : codes.shape[1]]


def pack(codes: Tensor, bits: int) -> Tensor:  # uint8 (rows, n) below 2^bits -> uint8 (rows, ceil(n · bits / 8))
    """As many codes to a byte as it holds, low bits first, each row filled up with zeros."""
    if bits == 8:
        return codes
    low, high = functional.pad(codes, (0, codes.shape[1] % 2)).unflatten(1, (-1, 2)).unbind(2)
    return low | high << 4


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:  # uint8 (rows, bytes) -> uint8 (rows, count)
    """Undo `pack`."""
    if bits == 8:
        return packed
    return torch.stack((packed & 15, packed >> 4), 2).flatten(1)[:, :count]


class Grouped(Stored, ABC):
    """What layers and tables have in common.

    Args:
        rows: of the matrix: output channels, or entries of a table.
        width: of a row.
        bits: of a code, 4 or 8.
        group_size: how many neighbours of a row share scale and zero point, a power of two from 16 on; -1 for all.
    """

    shared: ClassVar[tuple[str, ...]] = ("codes", "scales", "zeros")
    entropy: ClassVar[tuple[str, ...]] = ("codes", "zeros")

    codes: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, rows: int, width: int, bits: int, group_size: int) -> None:
        super().__init__()
        check_grid(bits, group_size)
        self.width, self.bits, self.group_size = width, bits, group_size
        groups = -(-width // group_of(width, group_size))
        self.register_buffer("codes", torch.zeros(rows, -(-width * bits // 8), dtype=torch.uint8))
        self.register_buffer("scales", torch.ones(rows, groups, dtype=torch.float16))
        self.register_buffer("zeros", torch.zeros(rows, -(-groups * bits // 8), dtype=torch.uint8))

    def fill(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Self:
        """Take over a quantized matrix.

        Args:
            codes: q, uint8 (rows, width).
            scales: s, float16 (rows, groups).
            zeros: z, uint8 (rows, groups).
        """
        top = 2**self.bits - 1
        self.codes = pack(codes - repeated(zeros, self.width, self.group_size) & top, self.bits)
        self.scales, self.zeros = scales, pack(zeros - 2 ** (self.bits - 1) & top, self.bits)
        return self

    def unpacked(self) -> tuple[Tensor, Tensor]:  # uint8 (rows, width), uint8 (rows, groups)
        """The codes q and the zero points z, one in a byte."""
        return self._unpacked(self.codes, self.zeros, self.scales.shape[1])

    def dense(self) -> Tensor:  # (rows, width)
        """The matrix unpacked."""
        return self._matrix(self.codes, self.scales, self.zeros)

    def spec(self) -> dict[str, Any]:
        """The grid."""
        return {"bits": self.bits, "group_size": self.group_size}

    @property
    def weight(self) -> Tensor:
        """Nothing, in the type that is computed in: T5 converts activations to the type of a weight."""
        return torch.empty(0, dtype=torch.float32, device=self.codes.device)

    def _matrix(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        """Rows of the matrix, of as many rows of the buffers."""
        own, zero = self._unpacked(codes, zeros, scales.shape[1])
        return values(own, scales, zero, self.group_size)

    def _unpacked(self, codes: Tensor, zeros: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        top = 2**self.bits - 1
        zero = unpack(zeros, self.bits, groups) + 2 ** (self.bits - 1) & top
        own = unpack(codes, self.bits, self.width) + repeated(zero, self.width, self.group_size) & top
        return own, zero

    def extra_repr(self) -> str:
        """Sizes and grid, for printing."""
        return f"{len(self.codes)}, {self.width}, bits={self.bits}, group_size={self.group_size}"


class WeightOnlyLinear(Grouped):
    """A linear layer with a packed weight.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: whether there is a bias.
        bits: of a code, 4 or 8.
        group_size: how many inputs share scale and zero point, a power of two from 16 on; -1 for all.
    """

    kind: ClassVar[str] = "weight_only_linear"

    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool, bits: int, group_size: int) -> None:
        super().__init__(out_features, in_features, bits, group_size)
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)) if bias else None)
        self._ready: tuple[tuple[Tensor, ...], tuple[int, ...], Tensor] | None = None

    @classmethod
    def build(cls, plain: nn.Module, spec: dict[str, Any]) -> Self:
        """An empty layer of the widths of a Linear or Conv1D."""
        if not is_linear(plain):
            raise ValueError(f"is {type(plain).__name__} and no Linear")
        return cls(
            inputs_of(plain), outputs_of(plain), plain.bias is not None, spec.get("bits", 0), spec.get("group_size", 0)
        )

    @property
    def packed(self) -> str:
        """Unsigned integers of so many bits."""
        return f"u{self.bits}"

    def runs_in(self, device: str, floating: str) -> str:
        """Floats, with the matrix unpacked."""
        return floating

    def forward(self, inputs: Tensor) -> Tensor:  # (..., in) -> (..., out)
        """Multiply floats; the result has the type of the input."""
        observed = torch.is_grad_enabled() or is_tracing() or torch.compiler.is_compiling()
        weight = self.dense() if observed else self._kept()
        return functional.linear(inputs.float(), weight, self.bias).to(inputs.dtype)

    def _kept(self) -> Tensor:  # (out, in)
        """The matrix, unpacked when it is first asked for and whenever its codes are others."""
        parts = (self.codes, self.scales, self.zeros)
        versions = tuple(0 if part.is_inference() else part._version for part in parts)
        ready = self._ready
        if ready is None or ready[1] != versions or any(a is not b for a, b in zip(ready[0], parts, strict=True)):
            self._ready = ready = (parts, versions, self.dense())
        return ready[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}


class WeightOnlyEmbedding(Grouped):
    """An embedding with packed rows.

    Args:
        num_embeddings: rows.
        embedding_dim: width of a row.
        padding_idx: kept for callers that read it.
        embed_scale: a factor on the result (BART's scaled embedding).
        bits: of a code, 4 or 8.
        group_size: how many neighbours in a row share scale and zero point, a power of two from 16 on; -1 for all.
    """

    kind: ClassVar[str] = "weight_only_embedding"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        embed_scale: float,
        bits: int,
        group_size: int,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, bits, group_size)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx, self.embed_scale = padding_idx, embed_scale

    @classmethod
    def build(cls, plain: nn.Module, spec: dict[str, Any]) -> Self:
        """An empty one of the size of an Embedding."""
        if not isinstance(plain, nn.Embedding):
            raise ValueError(f"is {type(plain).__name__} and no Embedding")
        size = plain.num_embeddings, plain.embedding_dim, plain.padding_idx
        return cls(*size, float(getattr(plain, "embed_scale", 1.0)), spec.get("bits", 0), spec.get("group_size", 0))

    def forward(self, ids: Tensor) -> Tensor:  # (...) -> (..., dim)
        """Look rows up and unpack them."""
        found = self._matrix(*(part[ids.flatten()] for part in (self.codes, self.scales, self.zeros)))
        return found.unflatten(0, ids.shape) * self.embed_scale

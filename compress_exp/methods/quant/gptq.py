"""GPTQ (Frantar et al. 2022, arXiv:2210.17323): round in groups, and let the weights to come make up for it.

With H = 2XᵀX/N + d·mean(diag)·I over the N tokens of the calibration rows and U the upper Cholesky factor of H⁻¹, a
layer's inputs are gone through one after the other: each column becomes the nearest points q of its groups' grids, and
its error e = (w − q)/U_jj is spread over the columns to come, W_{:,j:} −= e·U_{j,j:}. Grids, packing and kernels are
those of `quant/weight_only`. `order=activation` takes inputs by descending diag(H), on grids of the weights as they
were, so that groups are of neighbours and nothing is permuted when it runs; `order=none` goes from left to right, and
a group's grid is that of its weights when their turn comes. What was pruned stays zero, and what errors bring to it is
spread too. Deviations: inputs that are always zero keep their nearest points, which the authors' code makes zero; U
comes from one Cholesky factorization of H. Defaults: 4 bits in groups of 128, d = 0.01, 512 rows.
Cost: two passes over the calibration rows through each block, five with `sequential` (see
`compress_exp.methods.calibration` for memory), and a loop over the inputs of every layer; inputs² × 4 bytes for each
matrix of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from compress_exp.config.checks import FieldError, UserError, check_choice, check_number
from compress_exp.layers.weight_only import group_of, values
from compress_exp.layers.weights import original, weight_of
from compress_exp.methods.base import Facts
from compress_exp.methods.calibration import stream
from compress_exp.methods.context import Context
from compress_exp.methods.hessian import DAMPING, Hessian, compensated, inverse_factor
from compress_exp.methods.parametrized import attach, attached, passing
from compress_exp.methods.prepared import Prepared, entries
from compress_exp.methods.quant.weight_only import FakeQuantGroups, WeightOnly, grid, nearest
from compress_exp.methods.select import OUTSIDE_BLOCKS, Target, targets
from compress_exp.models.families.base import is_conv1d

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ORDERS = ("activation", "none")
WHOLE = -1  # the group of a row that is one


class OnGrid(FakeQuantGroups):
    """Holds a weight on grids that were decided for it; at first those of its own values.

    Attributes:
        scales: float16 (out, groups).
        zeros: uint8 (out, groups).
    """

    scales: Tensor
    zeros: Tensor

    def __init__(self, weight: Tensor, transposed: bool, bits: int, group_size: int, symmetric: bool) -> None:
        super().__init__(transposed, bits, group_size, symmetric)
        _, scales, zeros = super().quantize(weight)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", zeros)

    def quantize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (out, in), scales and zero points (out, groups)."""
        rows = weight.T if self.transposed else weight
        return nearest(rows, self.scales, self.zeros, self.bits, self.group_size), self.scales, self.zeros


@dataclass(frozen=True, kw_only=True)
class GPTQ(WeightOnly):
    """Integer weights in groups that make up for each other's rounding, multiplied as floats.

    Attributes:
        order: of a layer's inputs, "activation" (the largest first) or "none" (from left to right).
        damping: d, the share of the mean of H's diagonal that is added to it, from 1e-6 to 1.
        calibration: batches of 32 training rows that the inputs are taken from.
        sequential: within a block, too, weights see what the rounded ones before them leave.
    """

    origin: ClassVar[str] = "quant/gptq"

    order: str = "activation"
    damping: float = DAMPING
    calibration: int = 16
    sequential: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("order", self.order, ORDERS)
        check_number("damping", self.damping, 1e-6, 1)
        check_number("calibration", self.calibration, 1)
        if self.trains:
            told = "training would undo what quant/gptq decides; set it to 0, or take quant/weight_only, which trains"
            raise FieldError("train.max_steps", told)

    def check(self, facts: Facts) -> Facts:
        """Only projections of blocks have inputs to look at."""
        for role in self.select.roles or ():
            if role in OUTSIDE_BLOCKS:
                told = f"quant/gptq goes through the blocks, {role!r} lies outside; take quant/weight_only for it"
                raise FieldError("select.roles", told)
        return super().check(facts)

    def fit(self, model: PreTrainedModel, context: Context) -> Prepared:
        """The rounded weights and their grids, in the order of the blocks."""
        chosen = targets(model, context.family, self.select)
        found: list[tuple[nn.Module, Tensor, Tensor]] = []

        def gather(target: Target) -> Hessian:
            return Hessian(_rows(target, original(target.modules[0])).shape[1], context.device)

        def compress(target: Target, statistic: Hessian) -> None:
            module = target.modules[0]
            weight, kept = _rows(target, weight_of(module)), _rows(target, passing(module))
            try:
                codes, scales, zeros = self.quantize(weight, kept, statistic.matrix())
            except ValueError as error:
                raise UserError(f"{self.name}: {target.names[0]}: {error}") from error
            original(module).data.copy_(_rows(target, values(codes, scales, zeros, self.group_size)))
            found.append((module, scales, zeros))

        batches = context.calibration(self.calibration)
        stream(model, context.family, batches, chosen, gather, compress, self.sequential)
        self.insert(model, {}, context)
        for module, scales, zeros in found:
            own = attached(module, OnGrid)
            assert own is not None
            own.scales, own.zeros = scales, zeros
        return Prepared({}, entries(model, [target.names[0] for target in chosen], (".original", ".scales", ".zeros")))

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Put every chosen weight on grids of its own."""
        for target in targets(model, context.family, self.select):
            module = target.modules[0]
            weight, transposed = weight_of(module), is_conv1d(module)
            attach(target.modules, OnGrid(weight, transposed, self.bits, self.group_size, self.symmetric))
        return model

    def quantize(
        self,
        weight: Tensor,  # (out, in)
        kept: Tensor,  # bool (out, in): False becomes zero
        hessian: Tensor,  # (in, in), not yet damped; its dtype is that of the computation
    ) -> tuple[Tensor, Tensor, Tensor]:  # uint8 (out, in), float16 (out, groups), uint8 (out, groups)
        """Codes, scales and zero points of one matrix.

        Raises:
            ValueError: the Hessian holds numbers that are not finite.
        """
        size = group_of(len(hessian), self.group_size)
        turns = torch.arange(len(hessian), device=hessian.device)
        if self.order == "activation":
            turns = hessian.diagonal().argsort(descending=True, stable=True)
        groups = (turns // size).tolist()
        scales, zeros = grid(weight * kept, self.bits, self.group_size, self.symmetric)
        columns, passed = (weight * kept).T[turns].to(hessian.dtype), kept.T[turns]
        codes = torch.empty(columns.shape, dtype=torch.uint8, device=columns.device)

        def decide(index: int) -> Tensor:  # (out,)
            own = slice(groups[index], groups[index] + 1)
            if self.order == "none" and index % size == 0:
                here = columns[index : index + size] * passed[index : index + size]
                scales[:, own], zeros[:, own] = grid(here.T, self.bits, WHOLE, self.symmetric)
            column = (columns[index] * passed[index]).unsqueeze(1)
            nearest_codes = nearest(column, scales[:, own], zeros[:, own], self.bits, WHOLE)
            codes[index] = nearest_codes.squeeze(1)
            return values(nearest_codes, scales[:, own], zeros[:, own], WHOLE).squeeze(1)

        compensated(columns, inverse_factor(hessian[turns][:, turns], self.damping), decide)
        return codes[turns.argsort()].T, scales, zeros


def _rows(target: Target, tensor: Tensor) -> Tensor:
    """A weight as rows of outputs: transposed for Conv1D (in × out); and back."""
    return tensor.T if is_conv1d(target.modules[0]) else tensor

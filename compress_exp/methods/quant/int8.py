"""Int8 weights and activations, trained (QAT) or calibrated (static) on the grid that is deployed.

Quantization-aware training with straight-through gradients (Jacob et al. 2018, arXiv:1712.05877; for BERT: Q8BERT,
Zafrir et al. 2019, arXiv:1910.06188). Every projection of every block multiplies uint8 inputs with int8 weights,
embeddings (and an output head tied to them) are int8 per row; norms, softmax, biases and task heads stay in float32.
Weights that are multiplied take the codes −63 … 63 unless told otherwise, so that CPUs without VNNI do not overflow.
Deviation from Q8BERT: inputs are affine on uint8 with static ranges, since that is what integer kernels of CPUs run.
Cost: one forward pass per calibration batch; training steps a quarter to a half slower (measured: demo, MiniLM).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compress_exp.config.checks import UserError, check_number
from compress_exp.layers.int8 import LIMIT, OVERFLOW_SAFE_LIMIT, Int8Embedding, Int8Linear
from compress_exp.layers.weights import original, weight_of
from compress_exp.methods.base import Method
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import attach, attached
from compress_exp.methods.prepared import Prepared
from compress_exp.methods.quant.fake import FakeQuantInput, FakeQuantWeight, input_grid, quantize_input, row_scale
from compress_exp.methods.quant.packing import pack_all, quantization_error
from compress_exp.methods.select import Target, matching, targets
from compress_exp.methods.window import Window
from compress_exp.models.families.base import is_conv1d, is_linear, output_axis
from compress_exp.models.forward import forward_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TABLES = ("embedding", "position_embedding")


@dataclass(frozen=True, kw_only=True)
class Int8(Window, Method):
    """Integer weights and activations.

    Attributes:
        calibration: batches of training rows that set the first input ranges.
        average: weight of the past in the moving average of input ranges, in [0, 1).
        embeddings: whether embeddings are int8 too, one scale a row.
        overflow_safe: weights of products within ±63, exact on every CPU; false takes the full ±127, which needs VNNI
            or AMX on x86. Embeddings keep ±127 unless a quantized head shares them.
        end: progress at which the input ranges stop moving.
    """

    origin: ClassVar[str] = "quant/int8"

    calibration: int = 16
    average: float = 0.99
    embeddings: bool = True
    overflow_safe: bool = True

    packs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("calibration", self.calibration, 1)
        check_number("average", self.average, 0, 0.9999)

    @property
    def largest_code(self) -> int:
        """Of the weights that are multiplied."""
        return OVERFLOW_SAFE_LIMIT if self.overflow_safe else LIMIT

    def fit(self, model: PreTrainedModel, context: Context) -> Prepared:
        """The input ranges, on training rows."""
        self.insert(model, {}, context)
        model.eval()
        with torch.no_grad(), parametrize.cached():
            for batch in context.calibration(self.calibration):
                forward_outputs(model, batch, ())
        return Prepared({}, {name: value for name, value in model.state_dict().items() if ".input_quantizer." in name})

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Put fake quantizers on weights and inputs."""
        for target in self._targets(model, context):
            multiplied = any(map(is_linear, target.modules))
            limit = self.largest_code if multiplied else LIMIT
            attach(target.modules, FakeQuantWeight(output_axis(target.modules[0]), limit))
            for module in filter(is_linear, target.modules):
                module.add_module("input_quantizer", FakeQuantInput(self.average).to(context.device))
                module.register_forward_pre_hook(quantize_input)
        return model

    def begin(self, work: Work) -> None:
        """Every input range must have seen data."""
        quantizers = [module for module in work.model.modules() if isinstance(module, FakeQuantInput)]
        if any(int(quantizer.seen) == 0 for quantizer in quantizers):
            raise UserError(f"{self.name}: some layers saw no data; raise calibration, or exclude them by select")

    def step(self, work: Work) -> None:
        """Let the ranges follow until `end`, then hold them."""
        if work.progress >= 1.0:
            for module in work.model.modules():
                if isinstance(module, FakeQuantInput):
                    module.observing.fill_(False)

    def convert(self, work: Work) -> PreTrainedModel:
        """Replace fake-quantized modules by packed ones; tied weights are packed once."""
        return pack_all(work.model, FakeQuantWeight, _pack)

    def curves(self, work: Work) -> dict[str, float]:
        """‖W − Q(W)‖² / ‖W‖² over the quantized weights."""
        return quantization_error(work.model, FakeQuantWeight)

    def _targets(self, model: PreTrainedModel, context: Context) -> list[Target]:
        chosen = targets(model, context.family, self.select)
        tables = matching(model, context.family, replace(self.select, roles=TABLES)) if self.embeddings else []
        taken = {id(original(target.modules[0])) for target in chosen}
        chosen += [table for table in tables if id(original(table.modules[0])) not in taken]
        return [target for target in chosen if is_linear(target.modules[0]) or _is_plain_table(target.modules[0])]


def _is_plain_table(module: nn.Module) -> bool:
    """A lookup and nothing else (some position embeddings compute their own indices)."""
    return type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale")


def _pack(module: nn.Module) -> Int8Embedding | Int8Linear:
    weight = weight_of(module).detach()
    grid = attached(module, FakeQuantWeight)
    assert grid is not None
    scale = row_scale(weight, output_axis(module), grid.limit)
    if isinstance(module, nn.Embedding):
        return Int8Embedding.from_float(weight, scale, module.padding_idx, float(getattr(module, "embed_scale", 1.0)))
    quantizer = module.input_quantizer
    assert isinstance(quantizer, FakeQuantInput)
    bias = module.bias if isinstance(module.bias, Tensor) else None
    rows = weight.T if is_conv1d(module) else weight
    return Int8Linear.from_float(rows.contiguous(), bias, scale, *input_grid(quantizer.low, quantizer.high))

"""PyTorch modules as ONNX files for ONNX Runtime: attention without detours, stored modules by `graphs/forms/`."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from compress_exp.layers.stored import Stored
from compress_exp.models.forward import tensors
from compress_exp.runtimes.graphs.forms import form

OPSET = 17
LARGEST_CODE = "largest_code"


def encoder(model: Any) -> bytes:
    """The content of a file of an encoder: inputs and outputs by name, batch size and length free.

    Args:
        model: what `compress_exp.load` returns, in float32 or int8. It stays as it is.
    """
    names = ["input_ids", "attention_mask"]
    if int(getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        names.append("token_type_ids")

    class Traced(nn.Module):
        """Inputs and float32 outputs by position: what the tracer can follow."""

        def __init__(self, traced: nn.Module) -> None:
            super().__init__()
            self.model = traced

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            """The outputs for one batch."""
            found = tensors(self.model(**dict(zip(names, inputs, strict=True)), return_dict=True))
            return tuple(tensor.float() for tensor in found.values())

    # A padded batch: with a full mask some models trace a shortcut that later ignores the padding.
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    low = min(3, model.config.vocab_size - 1)
    example = {"input_ids": torch.full((2, 7), low), "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    traceable = _traceable(model)
    with torch.no_grad():
        outputs = tensors(traceable(**{name: example[name] for name in names}, return_dict=True))
    free = {name: {0: "batch", 1: "length"} for name in names}
    for name, tensor in outputs.items():  # an axis as long as the example's text may be its length
        free[name] = {0: "batch"} | {
            axis: f"{name}_{axis}" for axis in range(1, tensor.dim()) if tensor.shape[axis] == 7
        }
    return _trace(
        Traced(traceable), tuple(example[name] for name in names), names, list(outputs), free, _largest_code(model)
    )


def one_layer(layer: Any) -> bytes:
    """The content of a file of one layer alone, float32 "inputs" (batch, in) to "logits" (batch, out)."""
    free = {name: {0: "batch"} for name in ("inputs", "logits")}
    example = (torch.zeros(2, layer.in_features),)
    return _trace(_traceable(nn.Sequential(layer)), example, ["inputs"], ["logits"], free, _largest_code(layer))


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ · scale + mask) v."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        """As in PyTorch."""
        return functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, mask: Any, scale: float) -> Any:
        """The nodes."""
        zero, lowest, factor = (
            g.op("Constant", value_t=torch.tensor(number)) for number in (0.0, torch.finfo(torch.float32).min, scale)
        )
        scores = g.op("Mul", g.op("MatMul", query, g.op("Transpose", key, perm_i=[0, 1, 3, 2])), factor)
        scores = g.op("Add", scores, g.op("Where", mask, zero, lowest))
        return g.op("MatMul", g.op("Softmax", scores, axis_i=-1), value)


class _Reshape(torch.autograd.Function):
    """A reshape of (batch, length, …) that keeps both."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, sizes: list[int]) -> Tensor:
        """As in PyTorch."""
        return inputs.reshape(*inputs.shape[:2], *sizes)

    @staticmethod
    def symbolic(g: Any, inputs: Any, sizes: list[int]) -> Any:
        """The node."""
        return g.op("Reshape", inputs, g.op("Constant", value_t=torch.tensor([0, 0, *sizes])))


class _Direct(TorchFunctionMode):
    """While entered, masked attention and reshapes of (batch, length, …) trace to no more than they are.

    The exporter's own attention looks for NaN in every score, in case a row is masked as a whole, and its reshapes
    compute every size anew: a quarter of the time of a small encoder.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and len(args) == 3:
            mask, scale = kwargs.get("attn_mask"), kwargs.get("scale")
            plain = not kwargs.get("is_causal") and not kwargs.get("dropout_p") and not kwargs.get("enable_gqa")
            if plain and mask is not None and mask.dtype == torch.bool:
                return _Attention.apply(*args, mask, args[0].shape[-1] ** -0.5 if scale is None else scale)
        if func in (Tensor.view, Tensor.reshape) and len(args) > 1 and not kwargs:
            inputs, sizes = args[0], args[1] if isinstance(args[1], tuple | list) else args[1:]
            now, then = [int(size) for size in inputs.shape], [int(size) for size in sizes]
            if len(now) == len(then) and all(new in (old, -1) for old, new in zip(now, then, strict=True)):
                return inputs
            # Sizes that depend on the input are tensors here, others are integers.
            free = [isinstance(size, Tensor) for size in sizes]
            if free[:2] == [True, True] and not any(free[2:]) and len(sizes) > 2 and now[:2] == then[:2]:
                return _Reshape.apply(inputs, then[2:])
        return func(*args, **kwargs)


def _traceable(model: Any) -> Any:
    """A copy on the same tensors, in evaluation mode, whose stored modules trace to what they are in such a graph."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, tensors)
    twins: dict[nn.Module, nn.Module] = {}
    for name, module in list(copied.named_modules(remove_duplicate=False)):
        if isinstance(module, Stored) and (traced := form(module, "onnx")) is not None:
            if module not in twins:
                twins[module] = traced(module)
            copied.set_submodule(name, twins[module])
    return copied.eval()


def _largest_code(model: nn.Module) -> int:
    return max((module.largest_code or 0 for module in model.modules() if isinstance(module, Stored)), default=0)


def _trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    names: list[str],
    outputs: list[str],
    free: dict[str, dict[int, str]],
    largest: int,
) -> bytes:
    """The content of a file.

    Args:
        module: what `_traceable` made, perhaps wrapped.
        example: its inputs.
        names: their names.
        outputs: the names of what it gives.
        free: axes of inputs and outputs that are not fixed, by name.
        largest: the largest code that it multiplies with unsigned inputs, which is noted; 0 for none.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        torch.no_grad(),
        _Direct(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")  # the tracer's, about shapes that are checked to stay free
        file = Path(directory) / "model.onnx"
        torch.onnx.export(
            module.eval(),
            example,
            file,
            input_names=names,
            output_names=outputs,
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
            do_constant_folding=False,  # it would copy weights that layers share
        )
        model = onnx.load(file)
    if largest:
        onnx.helper.set_model_props(model, {LARGEST_CODE: str(largest)})
    return model.SerializeToString()

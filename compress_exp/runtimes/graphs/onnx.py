"""PyTorch modules as ONNX files for ONNX Runtime: int8 layers as integer products, attention without detours.

An int8 layer is one QuantizeLinear on its trained grid, shared by all that read the same input, and one
`com.microsoft.MatMulIntegerToFloat` on the stored codes with scales and bias: integers by construction, where a pair of
quantize and dequantize leaves it to the optimizer (which makes a float Gemm of a two-dimensional one).
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from compress_exp.layers.int8 import Int8Linear

OPSET = 17
MICROSOFT = "com.microsoft"
LARGEST_CODE = "largest_code"


def encoder(model: Any) -> bytes:
    """The content of a file of an encoder: inputs by name, logits, batch size and length free.

    Args:
        model: what `compress_exp.load` returns, in float32 or int8. It stays as it is.
    """
    names = ["input_ids", "attention_mask"]
    if int(getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        names.append("token_type_ids")

    class Logits(nn.Module):
        """Inputs by position, float32 logits: what the tracer can follow."""

        def __init__(self, traced: nn.Module) -> None:
            super().__init__()
            self.model = traced

        def forward(self, *inputs: Tensor) -> Tensor:
            """The logits of one batch."""
            return self.model(**dict(zip(names, inputs, strict=True)), return_dict=True).logits.float()

    # A padded batch: with a full mask some models trace a shortcut that later ignores the padding.
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    low = min(3, model.config.vocab_size - 1)
    example = {"input_ids": torch.full((2, 7), low), "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    free = {name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}}
    return _trace(Logits(_traceable(model)), tuple(example[name] for name in names), names, free)


def one_layer(layer: Int8Linear) -> bytes:
    """The content of a file of one layer alone, float32 "inputs" (batch, in) to "logits" (batch, out)."""
    free = {name: {0: "batch"} for name in ("inputs", "logits")}
    return _trace(_traceable(nn.Sequential(layer)), (torch.zeros(2, layer.in_features),), ["inputs"], free)


class _Product(torch.autograd.Function):
    """The integer matrix product with its scales and bias, in nodes that `_fuse` makes one."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *constants: Tensor) -> Tensor:
        """Its shape: no value matters while tracing."""
        return inputs.new_zeros(*inputs.shape[:-1], constants[2].shape[0])

    @staticmethod
    def symbolic(g: Any, inputs: Any, scale: Any, zero_point: Any, codes: Any, scales: Any, bias: Any) -> Any:
        """The nodes."""
        quantized = g.op("QuantizeLinear", inputs, scale, zero_point)
        product = g.op("MatMulInteger", quantized, g.op("Transpose", codes, perm_i=[1, 0]), zero_point)
        return g.op("Add", g.op("Mul", g.op("Cast", product, to_i=onnx.TensorProto.FLOAT), scales), bias)


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
    """A copy on the same tensors, in evaluation mode, whose int8 layers trace to integer products."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, tensors)
    twins: dict[nn.Module, nn.Module] = {}
    for name, module in list(copied.named_modules(remove_duplicate=False)):
        if isinstance(module, Int8Linear):
            if module not in twins:
                twins[module] = _TracedLinear(module)
            copied.set_submodule(name, twins[module])
    return copied.eval()


def _trace(module: nn.Module, example: tuple[Tensor, ...], names: list[str], free: dict[str, dict[int, str]]) -> bytes:
    """The content of a file.

    Args:
        module: what `_traceable` made, perhaps wrapped.
        example: its inputs.
        names: their names.
        free: axes of inputs and output that are not fixed, by name.
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
            output_names=["logits"],
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
            do_constant_folding=False,  # it would copy weights that layers share
        )
        model = onnx.load(file)
    _read_directly(model.graph)
    _fuse(model)
    return model.SerializeToString()


def _read_directly(graph: onnx.GraphProto) -> None:
    """Let nodes read constants by their own names: the exporter makes an Identity of each that equals another one."""
    names = {tensor.name: tensor.name for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        if node.op_type == "Identity" and node.input[0] in names:
            names[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _fuse(model: onnx.ModelProto) -> None:
    """Make one node of every integer product, its scales and its bias, and note the largest code among the weights."""
    graph = model.graph
    maker, readers = {}, defaultdict(list)
    for node in graph.node:
        maker[node.output[0]] = node
        for name in node.input:
            readers[name].append(node)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    fused: dict[str, onnx.NodeProto] = {}
    replaced, weights = set(), set()
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            codes, weight, zero_point = node.input
            (cast,) = readers[node.output[0]]
            (scaled,) = readers[cast.output[0]]
            (added,) = readers[scaled.output[0]]
            inputs = [codes, weight, maker[codes].input[1], scaled.input[1], zero_point, "", added.input[1]]
            fused[added.output[0]] = onnx.helper.make_node(
                "MatMulIntegerToFloat", inputs, added.output, node.name, domain=MICROSOFT
            )
            replaced |= {node.output[0], cast.output[0], scaled.output[0]}
            weights.add(maker[weight].input[0])
    if not fused:
        return
    nodes = [fused.get(node.output[0], node) for node in graph.node if node.output[0] not in replaced]
    del graph.node[:]
    graph.node.extend(nodes)
    model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    largest = max(int(abs(onnx.numpy_helper.to_array(stored[name]).astype("int16")).max()) for name in weights)
    onnx.helper.set_model_props(model, {LARGEST_CODE: str(largest)})

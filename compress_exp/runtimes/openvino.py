"""Encoders in OpenVINO: the traced graph, its weights at their stored width, and what the compiled graph really runs.

Int8 modules trace to a FakeQuantize on the input and an int8 constant that is unpacked; the CPU plugin turns each such
pair into one integer FullyConnected, on the trained grid. A bfloat16 model traces to bfloat16 constants. Stored modules
for which `graphs/forms/` has nodes are written as those.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress_exp.runtimes.base import Call, Deployed, Ids, Runtime

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from compress_exp.layers.stored import Stored

PACKED = ("u4", "u8", "i4", "i8")


def package() -> ModuleType:
    """The openvino package, imported without its telemetry (which writes to the home directory and calls out)."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def export_model(model: Any, directory: Path) -> None:
    """Write `model.xml` and `model.bin` of an encoder; batch size and length stay free.

    Args:
        model: what `compress_exp.load` returns.
        directory: where the two files go; created if needed.
    """
    import torch
    from torch import nn

    from compress_exp.models.forward import tensors

    outputs: list[str] = []  # their names, noted by the forward pass

    class Traced(nn.Module):
        """Inputs and float32 outputs by position: what the tracer can follow."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            """The outputs for one batch."""
            found = tensors(self.model(**dict(zip(names, inputs, strict=True)), return_dict=True))
            outputs[:] = found
            return tuple(tensor.float() for tensor in found.values())

    openvino = package()
    names = ["input_ids", "attention_mask"]
    if int(getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        names.append("token_type_ids")
    # A padded batch: with a full mask some models trace a shortcut that later ignores the padding.
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    low = min(3, model.config.vocab_size - 1)
    example = {"input_ids": torch.full((2, 7), low), "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    graph = convert(Traced().eval(), tuple(example[name] for name in names))
    for port, name in zip(graph.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
        port.get_node().set_friendly_name(name)
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    directory.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, directory / "model.xml", compress_to_fp16=False)


def convert(module: nn.Module, example: Any) -> Any:
    """The graph of a module, its stored modules as they are written in such graphs.

    Args:
        module: in evaluation mode; it stays as it was.
        example: its inputs.
    """
    import torch

    from compress_exp.layers.stored import Stored
    from compress_exp.runtimes.graphs.forms import form

    openvino = package()
    extensions: list[Any] = []
    # OpenVINO does not take its patch off a module again: it gets a copy, on the same tensors.
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    copied = copy.deepcopy(module, tensors)
    for number, layer in enumerate(part for part in copied.modules() if isinstance(part, Stored)):
        if (written := form(layer, "openvino")) is not None:
            extensions += _as_nodes(layer, written(layer), f"Stored{number}")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that are checked to stay free
        return openvino.convert_model(copied, example_input=example, extension=extensions or None)


def _as_nodes(layer: Stored, written: Callable[[Any], Any], name: str) -> tuple[Any, Any]:
    """What tells OpenVINO to trace a layer or a table as one operation, and what to write for that."""
    from openvino.frontend.pytorch import ConversionExtension, ModuleExtension

    rows, width = layer.dense().shape

    def outputs(module: Any, inputs: Tensor) -> Tensor:  # of the right shape; no value matters while tracing
        if inputs.is_floating_point():
            return inputs.new_zeros(*inputs.shape[:-1], rows)
        return inputs.new_zeros(*inputs.shape, width).float()

    def operation(module: Any, target: Any, inputs: Tensor) -> Any:
        return target(inputs)

    def nodes(context: Any) -> Any:
        return written(context.get_input(0)).outputs()

    return ModuleExtension(layer, name, outputs, operation), ConversionExtension(name, nodes)


def compile_graph(graph: Any, precision: str, threads: int) -> Any:
    """Compile for latency on the CPU.

    Args:
        graph: the path of a `model.xml`, or a graph.
        precision: f32 or bf16, always passed: left alone, OpenVINO runs f32 models in bf16 where the CPU can, and
            rounds the inputs of packed weights to int8.
        threads: inference threads.
    """
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }
    return package().Core().compile_model(graph, "CPU", options)


def executed(compiled: Any) -> dict[str, int]:
    """How many fully connected layers of a compiled graph run in which precision, e.g. {"u8": 36, "f32": 1}.

    Inputs in floats that meet a packed weight are "f32 u4": the weight is unpacked, and multiplied in floats.
    """
    found: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        if info["layerType"].value in ("FullyConnected", "QKVProjection", "LLMMLP"):
            precision = info["runtimePrecision"].value
            inputs = operation.input(0).get_element_type()
            packed = precision in PACKED and inputs.is_real()
            found[f"{inputs.get_type_name()} {precision}" if packed else precision] += 1
    return dict(found)


class OpenVINOPredictor:
    """An exported encoder, compiled for the CPU. Importing or timing it needs no torch.

    Args:
        directory: where `model.xml` and `model.bin` are.
        config: the transformers configuration of the model, for the task.
        precision: f32 or bf16.
        threads: inference threads.
    """

    def __init__(self, directory: Path, config: Any, precision: str, threads: int) -> None:
        self.config, self.directory = config, directory
        self.compiled = compile_graph(directory / "model.xml", precision, threads)
        self._names = [port.get_any_name() for port in self.compiled.inputs]
        self._request = self.compiled.create_infer_request()

    def outputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The model's outputs for a collated batch."""
        import torch

        shape = tuple(batch["input_ids"].shape)
        arrays = [batch[n].numpy() if n in batch else np.zeros(shape, dtype=np.int64) for n in self._names]
        found = self._request.infer(arrays)
        return {port.get_any_name(): torch.from_numpy(found[port].copy()) for port in self.compiled.outputs}

    def generate(self, batch: dict[str, Any], max_new_tokens: int, num_beams: int) -> Any:
        """Refused: encoders do not generate."""
        raise TypeError("this runtime serves encoders, which do not generate")

    def generate_call(self, ids: Ids, new_tokens: int) -> Call:
        """Refused likewise."""
        raise TypeError("this runtime serves encoders, which do not generate")

    def forward_call(self, ids: Ids) -> Call:
        """A call that runs one prepared batch."""
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        arrays = [values.get(name, np.zeros_like(ids)) for name in self._names]
        request = self.compiled.create_infer_request()
        return lambda: request.infer(arrays)

    def precision(self) -> str:
        """The floating precision that the compiled graph says it uses."""
        return str(self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())

    def executed(self) -> dict[str, int]:
        """Fully connected layers by the precision they run in."""
        return executed(self.compiled)


class OpenVINO(Runtime):
    """Encoders, compiled for the CPU."""

    name: ClassVar[str] = "openvino"
    package: ClassVar[str] = "openvino"
    files: ClassVar[tuple[str, ...]] = ("model.xml", "model.bin")
    preference: ClassVar[int] = 0

    def serves(self, kind: str, device: str, precision: str) -> bool:
        """Encoders on the CPU."""
        return kind == "encoder" and device == "cpu"

    def export(self, model: PreTrainedModel, directory: Path) -> None:
        """See `export_model`."""
        export_model(model, directory)

    def open(self, directory: Path, config: Any, precision: str, threads: int, device: str) -> Deployed:
        """Compile an export."""
        return OpenVINOPredictor(directory, config, precision, threads)

    def multiply(self, layer: nn.Module, inputs: Tensor) -> Tensor:
        """Trace, compile and run one layer."""
        import torch

        graph = convert(layer.eval(), inputs)
        graph.inputs[0].get_node().set_partial_shape(package().PartialShape([-1, inputs.shape[1]]))
        graph.validate_nodes_and_infer_types()
        return torch.from_numpy(compile_graph(graph, "f32", 1)(inputs.numpy())[0].copy())


RUNTIME = OpenVINO()

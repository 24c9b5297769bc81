"""Encoders in OpenVINO: the traced graph, its weights at their stored width, and what the compiled graph really runs.

Int8 modules trace to a FakeQuantize on the input and an int8 constant that is unpacked; the CPU plugin turns each such
pair into one integer FullyConnected, on the trained grid. A bfloat16 model traces to bfloat16 constants.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

PRECISIONS = {"f32": "f32", "bf16": "bf16", "float32": "f32", "bfloat16": "bf16"}
INTEGER = ("i8", "u8")
PASS_THROUGH = ("Convert", "Multiply", "Subtract", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


def runtime() -> ModuleType:
    """The openvino package, imported without its telemetry (which writes to the home directory and calls out)."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def stored_precision(artifact: Path) -> str:
    """The runtime precision that an artifact asks for: bf16 where its own configuration says bfloat16."""
    config = json.loads((artifact / "config.json").read_text())
    return PRECISIONS.get(str(config.get("dtype") or config.get("torch_dtype")), "f32")


def export_model(model: Any, directory: Path) -> None:
    """Write `model.xml` and `model.bin` of an encoder; batch size and length stay free.

    Args:
        model: what `compress_exp.load` returns.
        directory: where the two files go; created if needed.
    """
    import torch
    from torch import Tensor, nn

    class Logits(nn.Module):
        """Inputs by position, float32 logits: what the tracer can follow."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Tensor) -> Tensor:
            """The logits of one batch."""
            return self.model(**dict(zip(names, inputs, strict=True)), return_dict=True).logits.float()

    openvino = runtime()
    names = ["input_ids", "attention_mask"]
    if int(getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        names.append("token_type_ids")
    # A padded batch: with a full mask some models trace a shortcut that later ignores the padding.
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    low = min(3, model.config.vocab_size - 1)
    example = {"input_ids": torch.full((2, 7), low), "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that are checked to stay free
        graph = openvino.convert_model(Logits().eval(), example_input=tuple(example[name] for name in names))
    for port, name in zip(graph.inputs, names, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
        port.get_node().set_friendly_name(name)
    graph.outputs[0].get_tensor().set_names({"logits"})
    graph.validate_nodes_and_infer_types()
    directory.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, directory / "model.xml", compress_to_fp16=False)


def compile_graph(directory: Path, precision: str, threads: int) -> Any:
    """Compile `model.xml` for latency on the CPU.

    Args:
        directory: an export.
        precision: f32 or bf16, always passed: left alone, OpenVINO runs f32 models in bf16 where the CPU can.
        threads: inference threads.
    """
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    return runtime().Core().compile_model(directory / "model.xml", "CPU", options)


def executed(compiled: Any) -> dict[str, int]:
    """How many fully connected layers of a compiled graph run in which precision, e.g. {"u8": 36, "f32": 1}."""
    found: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        if info["layerType"].value in ("FullyConnected", "QKVProjection", "LLMMLP"):
            found[info["runtimePrecision"].value] += 1
    return dict(found)


def _source(port: Any) -> Any:
    """The first node behind an input that is more than unpacking or reshaping."""
    node = port.get_source_output().get_node()
    while node.get_type_name() in PASS_THROUGH:
        node = node.input(0).get_source_output().get_node()
    return node


def integer_layers(directory: Path) -> int:
    """The matrix products of an exported graph whose weights are int8 constants.

    Raises:
        RuntimeError: one of them has no quantize on its input, so no integer kernel could run it.
    """
    graph = runtime().Core().read_model(directory / "model.xml")
    count = 0
    for operation in graph.get_ops():
        if operation.get_type_name() != "MatMul":
            continue
        weight = _source(operation.input(1))
        if weight.get_type_name() != "Constant" or weight.get_element_type().get_type_name() != "i8":
            continue
        count += 1
        if (feeder := _source(operation.input(0)).get_type_name()) != "FakeQuantize":
            raise RuntimeError(f"{operation.get_friendly_name()} of {directory} takes {feeder}, not quantized input")
    return count


def check_integer(directory: Path, compiled: Any = None) -> int:
    """Require integer execution of every int8 layer of an export.

    Args:
        directory: an export.
        compiled: its compiled graph, compiled here when absent.

    Returns:
        How many layers run in integers.

    Raises:
        RuntimeError: there is no int8 layer, one lacks its quantize, or fewer run in integers than are stored so.
    """
    stored = integer_layers(directory)
    layers = executed(compiled or compile_graph(directory, "f32", 1))
    running = sum(layers.get(name, 0) for name in INTEGER)
    if not stored or running < stored:
        raise RuntimeError(f"{running} of {stored} int8 layers of {directory} run in integers; executed: {layers}")
    return running

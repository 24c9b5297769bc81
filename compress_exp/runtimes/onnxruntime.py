"""Encoders in ONNX Runtime: the session, and what its optimized graph really runs.

On CPUs with AVX-512 its Softmax passes through denormal numbers where a row is padded, so that a padded batch takes up
to 1.8 times as long as a full one. A process that only serves may set `session.set_denormal_as_zero`; here it stays
off, since it holds for the whole calling thread, trainings included.
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress_exp.runtimes.base import Call, Deployed, Ids, Runtime, Unserved

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

FILE = "model.onnx"
LARGEST_FILE = 2_000_000_000  # bytes
SAFE = 64
# What ONNX Runtime makes of a matrix product with a constant, and how it multiplies.
INTEGER = ("MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm")
UNPACKING = "MatMulNBits"
FLOATING = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm")


class OnnxRuntimePredictor:
    """An exported encoder in a session on the CPU. Importing or timing it needs no torch.

    Args:
        directory: where `model.onnx` is.
        config: the transformers configuration of the model, for the task.
        threads: inference threads.
    """

    def __init__(self, directory: Path, config: Any, threads: int) -> None:
        self.config, self.directory = config, directory
        self._session = _session(str(directory / FILE), threads)
        self._names = [node.name for node in self._session.get_inputs()]

    def outputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The model's outputs for a collated batch."""
        import torch

        shape = tuple(batch["input_ids"].shape)
        feed = {n: batch[n].numpy() if n in batch else np.zeros(shape, dtype=np.int64) for n in self._names}
        names = [node.name for node in self._session.get_outputs()]
        return dict(zip(names, map(torch.from_numpy, self._session.run(None, feed)), strict=True))

    def generate(self, batch: dict[str, Any], max_new_tokens: int, num_beams: int) -> Any:
        """Refused: encoders do not generate."""
        raise TypeError("this runtime serves encoders, which do not generate")

    def generate_call(self, ids: Ids, new_tokens: int) -> Call:
        """Refused likewise."""
        raise TypeError("this runtime serves encoders, which do not generate")

    def forward_call(self, ids: Ids) -> Call:
        """A call that runs one prepared batch."""
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        feed = {name: values.get(name, np.zeros_like(ids)) for name in self._names}
        return lambda: self._session.run(None, feed)

    def precision(self) -> str:
        """The floating precision of the session."""
        return "f32"

    def executed(self) -> dict[str, int]:
        """Matrix products with weights by the precision they run in, read from the optimized graph."""
        import onnx

        with tempfile.TemporaryDirectory() as directory:
            optimized = Path(directory) / FILE
            _session(str(self.directory / FILE), 1, str(optimized))
            graph = onnx.load(optimized).graph
        weights = {tensor.name for tensor in graph.initializer}
        found: Counter[str] = Counter()
        for node in graph.node:
            if node.op_type in INTEGER:
                found["u8"] += 1
            elif node.op_type == UNPACKING:
                bits = next(attribute.i for attribute in node.attribute if attribute.name == "bits")
                found[f"f32 u{bits}"] += 1
            elif node.op_type in FLOATING and weights & set(node.input[:2]):
                found["f32"] += 1
        return dict(found)


def _session(model: str | bytes, threads: int, optimized: str = "") -> Any:
    """A session for latency, with exact products.

    Args:
        model: a file's name or its content.
        threads: inference threads.
        optimized: where the optimized graph goes, if anywhere.
    """
    session = _open(model, threads, optimized)
    largest = int(session.get_modelmeta().custom_metadata_map.get("largest_code", 0))
    return _open(model, threads, optimized, wide=True) if largest > SAFE and saturates() else session


@functools.cache
def saturates() -> bool:
    """Whether this CPU adds pairs of u8·s8 products in 16 bits: 255 · 127 twice is more than they hold.

    Weights within ±64 are exact all the same.
    """
    import onnx

    make, kinds = onnx.helper, onnx.TensorProto
    weight = onnx.numpy_helper.from_array(np.full((64, 16), 127, dtype=np.int8), "weight")
    inputs = make.make_tensor_value_info("codes", kinds.UINT8, [1, 64])
    output = make.make_tensor_value_info("product", kinds.INT32, [1, 16])
    node = make.make_node("MatMulInteger", ["codes", "weight"], ["product"])
    graph = make.make_graph([node], "product", [inputs], [output], [weight])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    (product,) = _open(model.SerializeToString(), 1).run(None, {"codes": np.full((1, 64), 255, dtype=np.uint8)})
    return bool((product != 64 * 127 * 255).any())


def _open(model: str | bytes, threads: int, optimized: str = "", wide: bool = False) -> Any:
    """A session; `wide` for products added in 32 bits on a CPU that saturates."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    options.optimized_model_filepath = optimized
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Makes u8 of weights beyond ±64, also on CPUs that have no need of it (AMX, five times slower): only where asked.
    options.add_session_config_entry("session.x64quantprecision", "1" if wide else "0")
    # Its converter fails on a weight that two products share, which this optimizer would make of ALBERT's block.
    without = ["CommonSubexpressionElimination"] if wide else None
    cpu = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model, options, providers=cpu, disabled_optimizers=without)


class OnnxRuntime(Runtime):
    """Encoders in float32 and int8 on the CPU; its kernels know no bfloat16."""

    name: ClassVar[str] = "onnxruntime"
    package: ClassVar[str] = "onnxruntime"
    files: ClassVar[tuple[str, ...]] = (FILE,)
    preference: ClassVar[int] = 1

    def serves(self, kind: str, device: str, precision: str) -> bool:
        """Encoders in float32, or int8, on the CPU."""
        return kind == "encoder" and device == "cpu" and precision == "f32"

    def export(self, model: PreTrainedModel, directory: Path) -> None:
        """Write `model.onnx`; batch size and length stay free."""
        from compress_exp.runtimes.graphs.onnx import encoder

        tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        if (size := sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())) > LARGEST_FILE:
            raise Unserved(f"an ONNX file holds 2 GB and the model has {size / 1e9:.1f} GB")
        content = encoder(model)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / FILE).write_bytes(content)

    def open(self, directory: Path, config: Any, precision: str, threads: int, device: str) -> Deployed:
        """Open a session."""
        return OnnxRuntimePredictor(directory, config, threads)

    def multiply(self, layer: nn.Module, inputs: Tensor) -> Tensor:
        """Run one layer alone."""
        import torch

        from compress_exp.runtimes.graphs.onnx import one_layer

        return torch.from_numpy(_session(one_layer(layer), 1).run(None, {"inputs": inputs.numpy()})[0])


RUNTIME = OnnxRuntime()

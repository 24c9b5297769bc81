"""Packed weights stay packed in the runtimes, are multiplied as floats, and say what PyTorch says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress_exp.layers.surgery import replace_module
from compress_exp.layers.weight_only import Grouped, WeightOnlyEmbedding, WeightOnlyLinear
from compress_exp.measurement.fidelity import ROUNDING
from compress_exp.methods.quant.weight_only import FakeQuantGroups
from compress_exp.runtimes.base import runtime
from compress_exp.runtimes.eager import EagerPredictor
from compress_exp.runtimes.graphs.forms import form
from compress_exp.runtimes.openvino import compile_graph, package
from tests.layers.test_weight_only import drawn, layer
from tests.runtimes.test_openvino import ARCHITECTURES, batches, build

RUNTIMES = ("openvino", "onnxruntime")
LINEARS = {"bert": 14, "roberta": 14, "albert": 15, "distilbert": 14, "electra": 15}  # ALBERT's one block runs twice
GRIDS = [(16, 4), (32, 4), (64, 4), (128, 4), (256, 4), (-1, 4), (32, 8), (128, 8), (-1, 8)]


def packed(family: str, group_size: int, bits: int = 4) -> nn.Module:
    """Every Linear and the word embedding packed."""
    model = build(family)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) or module is model.get_input_embeddings():
            cls: Any = WeightOnlyLinear if isinstance(module, nn.Linear) else WeightOnlyEmbedding
            new: Grouped = cls.build(module, {"bits": bits, "group_size": group_size})
            new.fill(*FakeQuantGroups(False, bits, group_size, False).quantize(module.weight))
            if isinstance(new, WeightOnlyLinear) and new.bias is not None:
                new.bias.data = module.bias.detach().clone()
            replace_module(model, name, new)
    return model.eval()


def products(built: WeightOnlyLinear, inputs: Tensor) -> Tensor:
    """In float64, from the codes, one group after the other."""
    codes, zeros = built.unpacked()
    size = built.width if built.group_size == -1 else built.group_size
    total = torch.zeros(len(inputs), built.out_features, dtype=torch.float64)
    for group, start in enumerate(range(0, built.width, size)):
        part = codes[:, start : start + size].double() - zeros[:, group : group + 1].double()
        total += inputs[:, start : start + size].double() @ (part * built.scales[:, group : group + 1].double()).T
    return total + built.bias.detach().double()


@pytest.mark.parametrize("name", [*RUNTIMES, "eager"])
@pytest.mark.parametrize(("group_size", "bits"), GRIDS)
def test_products_are_those_of_floats_for_few_rows_and_many(name, group_size, bits):
    # OpenVINO takes other kernels for up to four rows; a last group that is shorter, odd and narrow widths.
    for width in (256, 300, 33):
        built = layer(17, width, group_size, bits)
        for rows in (1, 2, 4, 5, 33):
            inputs = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))
            expected = products(built, inputs)
            with torch.no_grad():
                found = runtime(name).multiply(built, inputs).double()
            assert float((found - expected).norm() / expected.norm()) < 2e-6, (width, rows)


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_whole_model_runs_packed_and_equals_pytorch(name, family, tmp_path):
    model = packed(family, 32)
    own = runtime(name)
    own.export(model, tmp_path)
    predictor = own.open(tmp_path, model.config, "f32", 1, "cpu")
    assert predictor.executed() == {"f32 u4": LINEARS[family]}
    for batch in batches(model.config.pad_token_id or 0):
        with torch.no_grad():
            expected = model(**batch).logits
        assert float((predictor.outputs(batch)["logits"] - expected).norm() / expected.norm()) < ROUNDING["f32"] / 10


def test_openvino_stores_four_bits_and_compiles_them_as_they_are(tmp_path):
    model = packed("albert", 32)
    runtime("openvino").export(model, tmp_path)
    graph = package().Core().read_model(tmp_path / "model.xml")
    kinds = [n.get_element_type().get_type_name() for n in graph.get_ops() if n.get_type_name() == "Constant"]
    layers = [module for module in model.modules() if isinstance(module, Grouped)]
    assert kinds.count("u4") == 2 * len(layers)  # codes and zero points, once for each layer, also of a shared block
    other = sum(p.numel() * 4 for p in model.parameters()) + sum(b.numel() * 4 for b in model.buffers())
    other -= sum(4 * (layer.codes.numel() + layer.scales.numel() + layer.zeros.numel()) for layer in layers)
    codes = sum(tensor.numel() * tensor.element_size() for m in layers for tensor in (m.codes, m.scales, m.zeros))
    assert (tmp_path / "model.bin").stat().st_size < 1.1 * (codes + other)
    compiled = compile_graph(tmp_path / "model.xml", "f32", 1)
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    constants = [
        operation.get_output_element_type(0).get_type_name()
        for operation in compiled.get_runtime_model().get_ops()
        if operation.get_rt_info()["layerType"].value == "Const" and math.prod(operation.get_output_shape(0)) >= 1024
    ]
    assert set(constants) <= {"u4", "f32"} and constants.count("f32") <= 2  # positions, and scales of the table


def test_onnx_holds_the_codes_and_no_float_of_them(tmp_path):
    model = packed("bert", 32)
    runtime("onnxruntime").export(model, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    nodes = [node.op_type for node in graph.node]
    assert nodes.count("MatMulNBits") == LINEARS["bert"] and nodes.count("GatherBlockQuantized") == 1
    levels = {a.i for node in graph.node for a in node.attribute if a.name == "accuracy_level"}
    assert levels == {1}  # products in float32
    parts = [part for m in model.modules() if isinstance(m, Grouped) for part in (m.codes, m.zeros)]
    bytes_ = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.UINT8]
    assert sum(len(tensor.raw_data) for tensor in bytes_) == sum(part.numel() for part in parts)
    floats = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert max(math.prod(tensor.dims) for tensor in floats) == 80 * 64  # the positions


@pytest.mark.parametrize("name", RUNTIMES)
def test_rows_of_a_table_come_out_to_the_bit(name):
    from compress_exp.runtimes.graphs import onnx as graphs
    from compress_exp.runtimes.onnxruntime import _session
    from compress_exp.runtimes.openvino import convert

    for width, group_size, bits in ((64, 32, 4), (40, 32, 4), (33, 16, 4), (300, -1, 8), (20, 128, 8)):
        table = (
            WeightOnlyEmbedding(50, width, 0, 1.5, bits, group_size).fill(*drawn(50, width, group_size, bits)).eval()
        )
        ids = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(width))
        if name == "openvino":
            found = compile_graph(convert(table, ids), "f32", 1)(ids.numpy())[0]
        else:
            traced = graphs._traceable(nn.Sequential(table))
            content = graphs._trace(traced, (ids,), ["ids"], ["rows"], {"ids": {0: "batch", 1: "length"}}, 0)
            found = _session(content, 1).run(None, {"ids": ids.numpy()})[0]
        assert np.array_equal(found, table(ids).numpy()), (width, group_size, bits)


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_model_comes_back_as_it_was(name, tmp_path: Path):
    model = packed("bert", 16)
    modules = {
        key: (id(module), type(module).forward, "forward" in vars(module)) for key, module in model.named_modules()
    }
    state = {key: (tensor.data_ptr(), tensor.clone()) for key, tensor in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    batch = batches(0)[0]
    with torch.no_grad():
        before = model(**batch).logits
        runtime(name).export(model, tmp_path)
        assert torch.equal(model(**batch).logits, before)
    assert {
        key: (id(module), type(module).forward, "forward" in vars(module)) for key, module in model.named_modules()
    } == modules
    for key, tensor in model.state_dict().items():
        assert tensor.data_ptr() == state[key][0] and torch.equal(tensor, state[key][1])
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted


def test_pytorch_says_that_it_multiplies_unpacked_floats():
    assert EagerPredictor(packed("bert", 32)).executed() == {"f32": 14}


def test_a_kind_from_elsewhere_is_not_taken_for_ours_by_the_name_of_its_file():
    elsewhere = type("WeightOnlyLinear", (WeightOnlyLinear,), {"__module__": "their.weight_only"})
    assert form(elsewhere(32, 4, False, 4, 16), "onnx") is None
    assert form(layer(4, 32, 16), "onnx") is not None and form(layer(4, 32, 16), "openvino") is not None
    assert form(layer(4, 32, 16), "other") is None

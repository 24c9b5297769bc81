import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress_exp.layers.heads import attentions
from compress_exp.layers.int8 import Int8Embedding, Int8Linear
from compress_exp.layers.neurons import feed_forwards
from compress_exp.models.families.base import family_of
from compress_exp.runtimes import onnxruntime
from compress_exp.runtimes.base import Unserved
from compress_exp.runtimes.onnxruntime import RUNTIME, OnnxRuntimePredictor
from tests.runtimes.test_openvino import ARCHITECTURES, batches, build, factored, sharing, to_int8

LINEARS = {"bert": 14, "roberta": 14, "albert": 15, "distilbert": 14, "electra": 15}  # ALBERT's one block runs twice


def assert_equal_outputs(model: nn.Module, predictor: OnnxRuntimePredictor) -> None:
    for batch in batches(model.config.pad_token_id or 0):
        with torch.no_grad():
            assert torch.allclose(predictor.outputs(batch)["logits"], model(**batch).logits, atol=1e-4)


def linear(outputs: int, inputs: int, limit: int, bias: bool) -> Int8Linear:
    """Random codes, and rows of the largest and smallest."""
    generator = torch.Generator().manual_seed(inputs)
    layer = Int8Linear(inputs, outputs, bias)
    codes = torch.randint(-limit, limit + 1, (outputs, inputs), generator=generator)
    codes[0], codes[1] = limit, -limit
    layer.weight = codes.to(torch.int8)
    layer.weight_scale = torch.rand(outputs, generator=generator) + 0.5
    layer.input_scale, layer.input_zero_point = torch.tensor(0.25), torch.tensor(7, dtype=torch.int32)
    if layer.bias is not None:
        layer.bias.data = torch.randn(outputs, generator=generator)
    return layer


@pytest.fixture(params=["this CPU", "one that saturates"])
def cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to multiply on every machine: a CPU that saturates takes the one that nothing saturates."""
    if request.param != "this CPU":
        monkeypatch.setattr(onnxruntime, "saturates", lambda: True)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_dense_export_equals_eager_at_other_shapes(family: str, tmp_path: Path) -> None:
    model = build(family)
    RUNTIME.export(model, tmp_path)
    predictor = OnnxRuntimePredictor(tmp_path, model.config, 1)
    assert predictor.executed() == {"f32": LINEARS[family]}
    assert_equal_outputs(model, predictor)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_starts_and_ends_of_answers_come_by_name(family: str, tmp_path: Path) -> None:
    model = build(family, "QuestionAnswering")
    RUNTIME.export(model, tmp_path)
    predictor = OnnxRuntimePredictor(tmp_path, model.config, 1)
    for batch in batches(model.config.pad_token_id or 0):
        found = predictor.outputs(batch)
        with torch.no_grad():
            expected = model(**batch)
        assert list(found) == ["start_logits", "end_logits"]
        for name, values in found.items():
            assert values.shape == batch["input_ids"].shape
            assert torch.allclose(values, expected[name], atol=1e-4), name
        assert not torch.allclose(found["start_logits"], found["end_logits"], atol=1e-2)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_fewer_heads_and_neurons_equal_eager_at_other_shapes(family: str, tmp_path: Path) -> None:
    model = build(family)
    for index, part in enumerate(attentions(model, family_of(family))):
        part.keep(model, [[0, 2, 3], [1]][index])
    for index, part in enumerate(feed_forwards(model, family_of(family))):
        part.keep(model, range(8 * index, 64))
    RUNTIME.export(model, tmp_path)
    assert_equal_outputs(model, OnnxRuntimePredictor(tmp_path, model.config, 2))


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_int8_runs_in_integers_from_int8_on_disk(family: str, tmp_path: Path) -> None:
    model = to_int8(build(family), batches(0), 127)
    RUNTIME.export(model, tmp_path)
    predictor = OnnxRuntimePredictor(tmp_path, model.config, 1)
    assert predictor.executed() == {"u8": LINEARS[family] - 1, "f32": 1}
    for batch in batches(model.config.pad_token_id or 0):
        with torch.no_grad():
            assert torch.cosine_similarity(predictor.outputs(batch)["logits"], model(**batch).logits).min() > 0.999
    stored = {id(t): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert sum(len(tensor.raw_data) for tensor in graph.initializer) <= sum(stored.values())
    tables = [t for t in graph.initializer if tuple(t.dims) == tuple(model.get_input_embeddings().weight.shape)]
    assert [t.data_type for t in tables] == [onnx.TensorProto.INT8]


@pytest.mark.usefixtures("cpu")
def test_factors_are_products_of_their_own_and_run_in_integers(tmp_path: Path) -> None:
    model = factored("bert")
    small = to_int8(model, batches(0))
    RUNTIME.export(model, tmp_path / "dense")
    dense = OnnxRuntimePredictor(tmp_path / "dense", model.config, 1)
    assert dense.executed() == {"f32": 2 * 12 + 2}
    assert_equal_outputs(model, dense)
    RUNTIME.export(small, tmp_path / "int8")
    predictor = OnnxRuntimePredictor(tmp_path / "int8", model.config, 1)
    assert predictor.executed() == {"u8": 2 * 12 + 1, "f32": 1}
    for batch in batches(0):
        with torch.no_grad():
            assert torch.cosine_similarity(predictor.outputs(batch)["logits"], small(**batch).logits).min() > 0.999


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_what_layers_share_is_written_once(family: str, tmp_path: Path) -> None:
    model = sharing(family)
    small = to_int8(model, batches(0))
    sizes = {}
    for name, one in (("dense", model), ("int8", small)):
        RUNTIME.export(one, tmp_path / name)
        predictor = OnnxRuntimePredictor(tmp_path / name, model.config, 1)
        for batch in batches(0):
            with torch.no_grad():
                expected = one(**batch).logits
            likeness = torch.cosine_similarity(predictor.outputs(batch)["logits"], expected).min()
            assert likeness > (0.999 if name == "int8" else 0.999999)
        graph = onnx.load(tmp_path / name / "model.onnx").graph
        sizes[name] = sum(len(tensor.raw_data) for tensor in graph.initializer)
    stored = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert sizes["dense"] <= stored and sizes["int8"] < 0.4 * stored


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("width", [64, 768, 3072])
@pytest.mark.parametrize("limit", [63, 127])
def test_products_are_exact_on_every_cpu(limit: int, width: int) -> None:
    layer = linear(48, width, limit, bias=width != 768)
    codes = torch.randint(0, 256, (9, width), generator=torch.Generator().manual_seed(1))
    codes[0], codes[1] = 255, 0
    products = (codes - 7) @ layer.weight.long().T  # in 64 bits
    scales = layer.weight_scale.double() * 0.25
    expected = products.double() * scales + (0 if layer.bias is None else layer.bias.double())
    found = RUNTIME.multiply(layer, (codes - 7) * 0.25).double()
    # Half a unit of the smallest product would show; float32 rounds its value, its scale and the sum.
    assert ((found - expected).abs() <= 4 * 2.0**-24 * (expected.abs() + scales)).all()


def test_inputs_beyond_the_grid_are_clamped_and_ties_go_to_even() -> None:
    layer = linear(4, 1, 1, bias=False)
    layer.weight, layer.weight_scale = torch.tensor([[1], [-1], [1], [0]], dtype=torch.int8), torch.ones(4)
    inputs = torch.tensor([[-100.0], [100.0], [0.125], [0.375], [math.inf]])
    assert RUNTIME.multiply(layer, inputs)[:, 0].tolist() == [-1.75, 62.0, 0.0, 0.5, 62.0]


def test_a_table_that_is_also_the_head_is_stored_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        """Logits over the vocabulary from the mean row, the head on the rows of the table."""

        def __init__(self) -> None:
            super().__init__()
            self.config = build("bert").config
            self.table, self.head = Int8Embedding(200, 64), linear(200, 64, 127, bias=True)
            self.table.weight, self.table.weight_scale = self.head.weight, self.head.weight_scale

        def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> object:
            weight = attention_mask.unsqueeze(-1).float()
            hidden = (self.table(input_ids) * weight).sum(1) / weight.sum(1)
            return {"logits": self.head(hidden / 60)}

    model = Tied().eval()
    RUNTIME.export(model, tmp_path)
    tables = [t for t in onnx.load(tmp_path / "model.onnx").graph.initializer if math.prod(t.dims) == 200 * 64]
    assert len(tables) == 1
    predictor = OnnxRuntimePredictor(tmp_path, model.config, 1)
    assert predictor.executed() == {"u8": 1}
    for batch in batches(0):
        with torch.no_grad():
            assert torch.allclose(predictor.outputs(batch)["logits"], model(**batch)["logits"], rtol=1e-2, atol=2.0)


def test_the_model_comes_back_as_it_was_and_nothing_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = to_int8(build("bert"), batches(0)).train()
    model.bert.encoder.layer[0].eval()
    seen: list[int] = []
    model.bert.pooler.register_forward_hook(lambda *_: seen.append(1))
    modules = {name: (id(module), module.training) for name, module in model.named_modules()}
    state = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    RUNTIME.export(model, tmp_path)
    assert {name: (id(module), module.training) for name, module in model.named_modules()} == modules
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == state[name][0] and torch.equal(tensor, state[name][1])
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wanted
    assert len(model.bert.pooler._forward_hooks) == 1
    said = capfd.readouterr()
    assert said.out == "" and said.err == ""


def test_padding_and_batch_do_not_change_a_row(tmp_path: Path) -> None:
    model = build("bert")
    RUNTIME.export(model, tmp_path)
    predictor = OnnxRuntimePredictor(tmp_path, model.config, 1)
    ids = torch.randint(5, 200, (1, 9), generator=torch.Generator().manual_seed(2))
    alone = predictor.outputs({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["logits"]
    padded = torch.cat([ids, torch.zeros(1, 20, dtype=torch.int64)], 1).repeat(3, 1)
    mask = torch.tensor([[1] * 9 + [0] * 20, [1] * 29, [1] * 20 + [0] * 9])
    assert torch.allclose(
        predictor.outputs({"input_ids": padded, "attention_mask": mask})["logits"][0], alone[0], atol=1e-5
    )


def test_a_model_beyond_one_file_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress_exp.runtimes.onnxruntime.LARGEST_FILE", 1000)
    with pytest.raises(Unserved, match="an ONNX file holds 2 GB"):
        RUNTIME.export(build("bert"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_serves_encoders_in_float32_on_the_cpu_only(tmp_path: Path) -> None:
    assert RUNTIME.serves("encoder", "cpu", "f32")
    for other in (("encoder", "cpu", "bf16"), ("encoder", "cuda", "f32"), ("decoder", "cpu", "f32")):
        assert not RUNTIME.serves(*other)
    model = build("bert")
    RUNTIME.export(model, tmp_path)
    with pytest.raises(TypeError, match="do not generate"):
        OnnxRuntimePredictor(tmp_path, model.config, 1).generate({}, 1, 1)


def test_timing_needs_no_torch_and_gives_the_logits_of_the_ids(tmp_path: Path) -> None:
    model = build("bert")
    RUNTIME.export(model, tmp_path)
    ids = np.arange(5, 29, dtype=np.int64).reshape(2, 12)
    program = f"""
import sys
from pathlib import Path
import numpy as np
from compress_exp.runtimes import onnxruntime
from compress_exp.runtimes.onnxruntime import OnnxRuntimePredictor
predictor = OnnxRuntimePredictor(Path({str(tmp_path)!r}), None, 1)
(logits,) = predictor.forward_call(np.array({ids.tolist()}))()
print(predictor.executed(), predictor.precision(), "torch" in sys.modules)
np.save({str(tmp_path / "logits.npy")!r}, logits)
"""
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert answer.strip() == "{'f32': 14} f32 False"
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits
    assert torch.allclose(torch.from_numpy(np.load(tmp_path / "logits.npy")), expected, atol=1e-4)

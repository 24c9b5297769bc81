import copy
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress_exp.config.train import TrainConfig
from compress_exp.layers.heads import attentions
from compress_exp.layers.int8 import OVERFLOW_SAFE_LIMIT, Int8Embedding, Int8Linear
from compress_exp.layers.neurons import feed_forwards
from compress_exp.methods.factorize.svd import SVD
from compress_exp.methods.share.layers import LayerSharing
from compress_exp.models.families.base import family_of
from compress_exp.runtimes.base import INTEGER
from compress_exp.runtimes.openvino import OpenVINOPredictor, compile_graph, executed, export_model, package
from tests.moments import bare_context

SIZES = {"vocab_size": 200, "max_position_embeddings": 80}
WIDE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
ARCHITECTURES = {
    "bert": WIDE,
    "roberta": {**WIDE, "pad_token_id": 1, "type_vocab_size": 1},
    "albert": {**WIDE, "embedding_size": 32},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    "electra": {**WIDE, "embedding_size": 32},
}


def build(family: str, head: str = "SequenceClassification") -> nn.Module:
    import transformers

    torch.manual_seed(0)
    labels = 2 if head == "QuestionAnswering" else 7
    config = transformers.AutoConfig.for_model(family, **SIZES, num_labels=labels, **ARCHITECTURES[family])
    model = getattr(transformers, f"AutoModelFor{head}").from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    return model


def batches(padding: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for rows, length in ((3, 16), (1, 33), (2, 70)):
        ids = torch.randint(5, 200, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, length - length // 3 :] = 0
        found.append({"input_ids": ids.masked_fill(mask == 0, padding), "attention_mask": mask})
    return found


def to_int8(model: nn.Module, samples: list[dict[str, Tensor]], limit: int = OVERFLOW_SAFE_LIMIT) -> nn.Module:
    """A calibrated int8 twin: every Linear but the last, and the word embedding."""
    model = copy.deepcopy(model)
    ranges: dict[str, tuple[float, float]] = {}
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    linears.pop(list(linears)[-1])

    def watch(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, inputs[0].min().item()), max(high, inputs[0].max().item())

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in linears.items()]
    with torch.no_grad():
        for sample in samples:
            model(**sample)
    for handle in handles:
        handle.remove()
    for name, module in linears.items():
        low, high = ranges[name]
        scale = torch.tensor((high - low) / 255)
        rows = module.weight.detach().abs().amax(1) / limit
        layer = Int8Linear.from_float(module.weight, module.bias, rows, scale, (-low / scale).round())
        model.set_submodule(name, layer)
    words = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is words)
    rows = words.weight.detach().abs().amax(1).clamp(min=1e-8) / 127
    model.set_submodule(name, Int8Embedding.from_float(words.weight, rows, words.padding_idx))
    return model.eval()


def factored(family: str) -> nn.Module:
    """The projections of its blocks as two factors each, with half the weights."""
    budget = TrainConfig(epochs=1, learning_rate=1e-3, batch_size=4, max_steps=0)
    method = SVD(name="factorize/svd", train=budget, share=0.5)
    return method.prepare(build(family), bare_context(family)).eval()


def sharing(family: str) -> nn.Module:
    """Its two layers on one set of weights."""
    budget = TrainConfig(epochs=1, learning_rate=1e-3, batch_size=4, max_steps=0)
    return LayerSharing(name="share/layers", train=budget).prepare(build(family), bare_context(family)).eval()


def run(compiled, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[no-untyped-def]
    names = [port.get_any_name() for port in compiled.inputs]
    arrays = [batch.get(name, torch.zeros_like(batch["input_ids"])).numpy() for name in names]
    return torch.from_numpy(compiled(arrays)[0])


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_dense_export_equals_eager_at_other_shapes(family: str, tmp_path: Path) -> None:
    model = build(family)
    export_model(model, tmp_path)
    compiled = compile_graph(tmp_path / "model.xml", "f32", 1)
    assert set(executed(compiled)) == {"f32"}
    for batch in batches(model.config.pad_token_id or 0):
        with torch.no_grad():
            assert torch.allclose(run(compiled, batch), model(**batch).logits, atol=1e-4)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_starts_and_ends_of_answers_come_by_name(family: str, tmp_path: Path) -> None:
    model = build(family, "QuestionAnswering")
    export_model(model, tmp_path)
    predictor = OpenVINOPredictor(tmp_path, model.config, "f32", 1)
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
    export_model(model, tmp_path)
    compiled = compile_graph(tmp_path / "model.xml", "f32", 1)
    for batch in batches(model.config.pad_token_id or 0):
        with torch.no_grad():
            assert torch.allclose(run(compiled, batch), model(**batch).logits, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "albert", "electra"])
def test_int8_runs_in_integers_on_the_same_grid(family: str, tmp_path: Path) -> None:
    model = build(family)
    samples = batches(0)
    small = to_int8(model, samples)
    export_model(model, tmp_path / "dense")
    export_model(small, tmp_path / "int8")
    compiled = compile_graph(tmp_path / "int8" / "model.xml", "f32", 1)
    if platform.machine() == "x86_64":  # elsewhere OpenVINO may run some of them in floats, and a record says so
        # BERT: 6 per layer and the pooler; ALBERT (one block run twice) and ELECTRA: also a projection of embeddings.
        layers = executed(compiled)
        assert layers.get("f32") == 1 and sum(layers[n] for n in INTEGER if n in layers) == sum(layers.values()) - 1
        assert sum(layers.values()) == {"bert": 14, "albert": 15, "electra": 15}[family]
    sizes = {name: (tmp_path / name / "model.bin").stat().st_size for name in ("dense", "int8")}
    assert sizes["int8"] < 0.4 * sizes["dense"]
    for batch in samples:
        with torch.no_grad():
            expected = small(**batch).logits
        assert torch.cosine_similarity(run(compiled, batch), expected).min() > 0.999


def test_factors_are_products_of_their_own_and_run_in_integers(tmp_path: Path) -> None:
    model, samples = factored("bert"), batches(0)
    small = to_int8(model, samples)
    export_model(model, tmp_path / "dense")
    export_model(small, tmp_path / "int8")
    compiled = {name: compile_graph(tmp_path / name / "model.xml", "f32", 1) for name in ("dense", "int8")}
    assert executed(compiled["dense"]) == {"f32": 2 * 12 + 2}
    if platform.machine() == "x86_64":
        layers = executed(compiled["int8"])
        assert layers.pop("f32") == 1 and sum(layers.values()) == 2 * 12 + 1 and set(layers) <= set(INTEGER)
    for batch in samples:
        with torch.no_grad():
            assert torch.allclose(run(compiled["dense"], batch), model(**batch).logits, atol=1e-4)
            expected = small(**batch).logits
        assert torch.cosine_similarity(run(compiled["int8"], batch), expected).min() > 0.999
    export_model(build("bert"), tmp_path / "whole")
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("int8", "dense", "whole")]
    assert sizes == sorted(sizes) and sizes[1] < sizes[2]


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_what_layers_share_is_written_once(family: str, tmp_path: Path) -> None:
    model, samples = sharing(family), batches(0)
    small = to_int8(model, samples)
    sizes = {}
    for name, one in (("dense", model), ("int8", small)):
        export_model(one, tmp_path / name)
        compiled = compile_graph(tmp_path / name / "model.xml", "f32", 1)
        for batch in samples:
            with torch.no_grad():
                expected = one(**batch).logits
            assert torch.cosine_similarity(run(compiled, batch), expected).min() > (
                0.999 if name == "int8" else 0.999999
            )
        sizes[name] = (tmp_path / name / "model.bin").stat().st_size
    stored = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert sizes["dense"] <= stored and sizes["int8"] < 0.4 * stored


def test_bfloat16_keeps_two_bytes_and_every_bit(tmp_path: Path) -> None:
    model = build("bert").to(torch.bfloat16)
    export_model(model, tmp_path)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (tmp_path / "model.bin").stat().st_size < 2.1 * parameters
    graph = package().Core().read_model(tmp_path / "model.xml")
    stored = {
        operation.get_data().tobytes()
        for operation in graph.get_ops()
        if operation.get_type_name() == "Constant" and operation.get_element_type().get_type_name() == "bf16"
    }
    for name, parameter in model.named_parameters():
        if name.endswith("dense.weight"):
            assert parameter.detach().view(torch.int16).numpy().tobytes() in stored, name
    compiled = compile_graph(tmp_path / "model.xml", "bf16", 1)
    for batch in batches(0):
        with torch.no_grad():
            expected = model(**batch).logits.float()
        assert torch.cosine_similarity(run(compiled, batch), expected).min() > 0.99


def test_nothing_is_written_home_or_sent(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from compress_exp.runtimes.openvino import package;"
        "ov = package(); ov.save_model(ov.convert_model(torch.nn.Linear(2, 2), example_input=torch.zeros(1, 2)),"
        "Path(sys.argv[1]) / 'model.xml'); assert sys.modules['openvino_telemetry'] is None"
    )
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "HOME": str(home)}, check=True)
    assert (tmp_path / "model.bin").is_file() and not list(home.iterdir())

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import compress_exp
from compress_exp.config.checks import UserError
from compress_exp.formats.artifact import load, save
from compress_exp.layers.blocks import with_layers
from compress_exp.layers.int8 import Int8Embedding, Int8Linear
from compress_exp.layers.surgery import pruned_modules
from compress_exp.methods.distill.student import fewer_layers
from compress_exp.methods.parametrized import bake, mark_masked
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.quant.bf16 import BFloat16
from compress_exp.methods.quant.int8 import Int8
from compress_exp.models.families.base import family_of
from tests.conftest import ARCHITECTURES
from tests.forward import forward_logits
from tests.moments import at

FAMILIES = tuple(ARCHITECTURES)


@pytest.fixture
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))


def pruned(model, context, budget, sparsity=0.75):
    method = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=sparsity, schedule="one_shot")
    model = method.prepare(model, context)
    method.step(at(model, 1.0))
    mark_masked(model)
    bake(model)
    return model


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("kind", ["prune", "int8", "prune+int8", "bf16", "student"])
def test_what_is_loaded_computes_what_was_saved(
    model_type, kind, tiny, context, budget, no_budget, batch, tmp_path, tokenizer
):
    model = tiny(model_type)
    if "prune" in kind:
        model = pruned(model, context(model_type), budget)
    if "int8" in kind:
        method = Int8(name="quant/static", train=no_budget)
        model = method.convert(at(method.prepare(model, context(model_type))))
    if kind == "bf16":
        model = BFloat16(name="quant/bf16", train=no_budget).convert(at(model))
    if kind == "student":
        family = family_of(model_type)
        model = fewer_layers(model, family, {stack.name: 1 for stack in family.stacks}).eval()
    save(model, tokenizer, tmp_path)
    again = compress_exp.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(forward_logits(again, batch), forward_logits(model, batch))
    assert {name for name, _ in pruned_modules(again)} == {name for name, _ in pruned_modules(model)}
    if model_type in ("gpt2", "t5", "bart"):
        table, head = again.get_input_embeddings().weight, again.get_output_embeddings().weight
        assert table.data_ptr() == head.data_ptr()


def test_the_bytes_are_those_of_the_format(tiny, context, budget, tmp_path, tokenizer):
    model = pruned(tiny("bert"), context("bert"), budget)
    save(model, tokenizer, tmp_path)
    expected = 0
    for name, tensor in model.state_dict().items():
        inside = any(name == f"{module}.weight" for module, _ in pruned_modules(model))
        nonzeros = int((tensor != 0).sum())
        expected += -(-tensor.numel() // 8) + 4 * nonzeros if inside else 4 * tensor.numel()
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(key).numel() * file.get_tensor(key).element_size() for key in file.keys())  # noqa: SIM118
    assert stored == expected


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_the_largest_code_of_int8_linears_is_told(model_type, tiny, context, no_budget, tmp_path, tokenizer):
    method = Int8(name="quant/static", train=no_budget)
    model = method.convert(at(method.prepare(tiny(model_type), context(model_type))))
    linear = [module for module in model.modules() if isinstance(module, Int8Linear)]
    for module in linear:
        module.weight.clamp_(-50, 50)  # GPT-2's table is its head's
    linear[1].weight[0, 0] = -61
    tables = [module for module in model.modules() if isinstance(module, Int8Embedding)]
    assert max(int(module.weight.abs().max()) for module in tables) == 127
    save(model, tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    groups = [group for group in config["quantization_config"]["modules"] if group["kind"] == "int8_linear"]
    codes = {name: group["spec"]["largest_code"] for group in groups for name in group["names"]}
    assert len(codes) == len(linear) and sorted(codes.values())[-2:] == [50, 61]
    assert any(len(group["names"]) > 1 for group in groups)  # equal specifications are written once


def test_one_flipped_bit_of_the_weights_is_noticed(tiny, tmp_path, tokenizer):
    save(tiny("bert"), tokenizer, tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"^artifact: .*model\.safetensors was changed since it was written"):
        load(tmp_path)


def test_a_flipped_bit_is_noticed_by_from_pretrained_too(tiny, context, no_budget, tmp_path, tokenizer):
    method = Int8(name="quant/static", train=no_budget)
    save(method.convert(at(method.prepare(tiny("bert"), context("bert")))), tokenizer, tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 16
    weights.write_bytes(content)
    with pytest.raises(UserError, match="was changed since it was written"):
        transformers.BertForSequenceClassification.from_pretrained(tmp_path)


def test_layers_are_copied_with_the_modules_that_a_method_put_there(tiny, context, no_budget):
    method = Int8(name="quant/static", train=no_budget)
    model = method.convert(at(method.prepare(tiny("bert"), context("bert"))))
    copied = with_layers(model, family_of("bert"), {"encoder": [1]})
    own, theirs = copied.bert.encoder.layer[0], model.bert.encoder.layer[1]
    inputs = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(own.eval()(inputs)[0], theirs.eval()(inputs)[0])
    assert isinstance(own.intermediate.dense, Int8Linear)


def test_a_student_is_an_ordinary_checkpoint(tiny, tmp_path, tokenizer):
    family = family_of("bert")
    save(fewer_layers(tiny("bert"), family, {"encoder": 2}), tokenizer, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_saving_what_was_loaded_gives_the_same_bytes(tiny, context, budget, tmp_path, tokenizer):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    save(pruned(tiny("gpt2"), context("gpt2"), budget), tokenizer, first)
    save(load(first), tokenizer, second)
    for name in ("model.safetensors", "config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_pickle_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}')
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"'pytorch_model.bin' .* is a pickle"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is no safetensors file"):
        load(tmp_path)


def test_an_unknown_architecture_is_refused(tiny, tmp_path, tokenizer):
    save(tiny("bert"), tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["os.system"]}))
    with pytest.raises(UserError, match="no architecture of transformers"):
        load(tmp_path)

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import compress_exp
from compress_exp.formats.artifact import save
from compress_exp.layers.blocks import with_layers
from compress_exp.layers.heads import attentions
from compress_exp.layers.neurons import feed_forwards
from compress_exp.layers.shapes import settle, uneven
from compress_exp.layers.surgery import mark_pruned, pruned_modules
from compress_exp.methods.distill.student import fewer_layers
from compress_exp.methods.quant.int8 import Int8
from compress_exp.models.families.base import family_of, is_linear, layer_counts
from tests.forward import forward_logits
from tests.moments import at
from tests.slimming import FAMILIES, build, family_name, shrink, some

PLAIN = """
import pathlib, sys, torch, transformers
ids = torch.arange(1, 25).view(2, 12)
for place in pathlib.Path(sys.argv[1]).iterdir():
    model = getattr(transformers, place.name.partition("-")[0]).from_pretrained(place).eval()
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    with torch.no_grad():
        torch.save(model(**inputs).logits, place / "logits.pt")
assert "compress_exp" not in sys.modules
"""


@pytest.fixture
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))


def slimmed(name):
    model, family = build(name), family_of(family_name(name))
    shrink(model, some(attentions(model, family)))
    shrink(model, some(feed_forwards(model, family)))
    settle(model, family)
    return model, family


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["slim", "slim+prune", "slim+int8", "slim+prune+int8"])
def test_uneven_models_are_loaded_as_they_were_saved(name, kind, batch, context, no_budget, tmp_path, tokenizer):
    model, family = slimmed(name)
    if "prune" in kind:
        for part in attentions(model, family):
            part.output.weight.data[torch.rand(part.output.weight.shape) < 0.7] = 0
            mark_pruned(part.output)
    if "int8" in kind:
        method = Int8(name="quant/static", train=no_budget)
        model = method.convert(at(method.prepare(model, context(family_name(name)))))
    save(model, tokenizer, tmp_path)
    again = compress_exp.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(forward_logits(again, batch), forward_logits(model, batch))
    assert {name for name, _ in pruned_modules(again)} == {name for name, _ in pruned_modules(model)}
    assert uneven(again, family) == uneven(model, family) != {}
    second = tmp_path / "again"
    second.mkdir()
    save(again, tokenizer, second)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / file).read_bytes() == (second / file).read_bytes(), file


def test_equal_shapes_of_all_blocks_need_no_import_of_ours(tmp_path, tokenizer):
    expected, ids = {}, torch.arange(1, 25).view(2, 12)
    for name in (*FAMILIES, "t5 heads"):
        model_name, _, heads = name.partition(" ")
        model, family = build(model_name), family_of(family_name(model_name))
        for part in feed_forwards(model, family):
            part.keep(model, range(3, 27))
        if heads:
            shrink(model, [(part, [1]) for part in attentions(model, family)])
        settle(model, family)
        place = tmp_path / "models" / f"{type(model).__name__}-{name}"
        place.mkdir(parents=True)
        save(model, tokenizer, place)
        assert "quantization_config" not in json.loads((place / "config.json").read_text())
        inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
        with torch.no_grad():
            expected[place] = model(**inputs).logits
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    command = [sys.executable, str(script), str(tmp_path / "models")]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert len(expected) == len(FAMILIES) + 1
    for place, logits in expected.items():
        assert torch.equal(torch.load(place / "logits.pt", weights_only=True), logits), place.name


def test_uneven_shapes_are_told_by_name(tmp_path, tokenizer):
    model, family = build("t5"), family_of("t5")
    self_attention = next(part for part in attentions(model, family) if part.name.endswith("1.layer.0.SelfAttention"))
    self_attention.keep(model, [1])
    feed_forwards(model, family)[0].keep(model, range(40))
    settle(model, family)
    save(model, tokenizer, tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert told["heads"] == {"encoder.block.1.layer.0.SelfAttention": [1]}
    assert told["neurons"] == {"encoder.block.0": 40}
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["encoder.block.1.layer.0.SelfAttention.q.weight"].shape == (16, 32)
    assert stored["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].shape == (32, 2)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "albert"])
def test_layers_of_an_uneven_model_keep_their_shapes(name, batch):
    model, family = slimmed(name)
    mark_pruned(attentions(model, family)[0].output)
    with torch.no_grad():
        same = with_layers(model, family, {k: range(n) for k, n in layer_counts(model.config, family).items()}).eval()
        assert torch.equal(forward_logits(same, batch), forward_logits(model, batch))
    assert uneven(same, family) == uneven(model, family)
    assert len(list(pruned_modules(same))) == 1
    counts = {stack.name: 1 for stack in family.stacks}
    student = fewer_layers(model, family, counts)
    for own, theirs in zip(attentions(student, family), attentions(model, family), strict=False):
        if own.name == theirs.name:
            assert own.count == theirs.count


@pytest.mark.parametrize("name", FAMILIES)
def test_marks_of_pruned_weights_and_their_zeros_stay_where_units_go(name):
    model, family = build(name), family_of(family_name(name))
    part = attentions(model, family)[0]
    generator = torch.Generator().manual_seed(4)
    for module in (*part.inputs, part.output):
        module.weight.data[torch.rand(module.weight.shape, generator=generator) < 0.5] = 0
        mark_pruned(module)
    before = copy.deepcopy(model)
    kept = float(part.costs()[1, 1]) - sum(
        m.bias.numel() / 2 for m in part.inputs if getattr(m, "bias", None) is not None
    )
    part.keep(model, [1])
    modules = {name for name, _ in pruned_modules(model)}
    assert modules == {name for name, _ in pruned_modules(before)}
    assert sum(int(model.get_submodule(name).weight.count_nonzero()) for name in modules) == kept


def test_every_projection_has_a_part(tiny):
    for name in ("bert", "gpt2", "t5", "bart"):
        model, family = tiny(name), family_of(name)
        parts = attentions(model, family) + feed_forwards(model, family)
        held = {id(module) for part in parts for module in (*part.inputs, part.output)}
        inside = [m for n, m in model.named_modules() if family.block_of(n) and is_linear(m)]
        assert held == {id(module) for module in inside}

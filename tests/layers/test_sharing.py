from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from compress_exp.config.checks import UserError
from compress_exp.formats.artifact import check, load, save
from compress_exp.layers.blocks import with_layers
from compress_exp.layers.int8 import Int8Linear
from compress_exp.layers.sharing import shared_blocks
from compress_exp.layers.surgery import is_pruned
from compress_exp.measurement.size import weights
from compress_exp.methods.factorize.svd import SVD
from compress_exp.methods.parametrized import bake, mark_masked
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.prune.sparsegpt import SparseGPTPruning
from compress_exp.methods.prune.wanda import WandaPruning
from compress_exp.methods.quant.bf16 import BFloat16
from compress_exp.methods.quant.int8 import Int8
from compress_exp.methods.quant.weight_only import WeightOnly
from compress_exp.methods.share.layers import LayerSharing
from compress_exp.models.families.base import family_of
from tests.forward import forward_logits
from tests.moments import at
from tests.slimming import build

FAMILIES = ("bert", "gpt2", "t5", "bart")


@pytest.fixture
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))


@pytest.fixture
def shared(context, no_budget):
    def make(family):
        return LayerSharing(name="share/layers", train=no_budget).prepare(build(family), context(family)).eval()

    return make


def masked(method, model, family, context):
    model = method.prepare(model, context(family))
    method.step(at(model))
    mark_masked(model)
    bake(model)
    return model.eval()


def follow(kind, model, family, context, no_budget):
    """What a later stage makes of a model."""
    if kind == "prune":
        method = MagnitudePruning(name="prune/magnitude", train=no_budget, sparsity=0.75, schedule="one_shot")
        return masked(method, model, family, context)
    if kind == "wanda":
        return masked(WandaPruning(name="prune/wanda", train=no_budget, sparsity=0.5), model, family, context)
    if kind == "sparsegpt":
        return masked(SparseGPTPruning(name="prune/sparsegpt", train=no_budget, sparsity=0.5), model, family, context)
    if kind == "int8":
        method = Int8(name="quant/static", train=no_budget, calibration=2)
        return method.convert(at(method.prepare(model, context(family)))).eval()
    if kind == "int4":
        method = WeightOnly(name="quant/weight_only", train=no_budget, group_size=16)
        return method.convert(at(method.prepare(model, context(family)))).eval()
    if kind == "bf16":
        return BFloat16(name="quant/bf16", train=no_budget).convert(at(model))
    if kind == "svd":
        return SVD(name="factorize/svd", train=no_budget, share=0.5).prepare(model, context(family)).eval()
    return model


def logits(model, batch):
    with torch.no_grad():
        return forward_logits(model, batch).float()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["nothing", "prune", "wanda", "sparsegpt", "int8", "int4", "bf16", "svd"])
def test_shared_layers_are_stored_once_and_come_back_shared(
    family, kind, shared, context, no_budget, batch, tmp_path, tokenizer
):
    model = follow(kind, shared(family), family, context, no_budget)
    blocks = shared_blocks(model, family_of(family))
    names = sorted(blocks)
    assert len(names) == 2 and all(name[:-1] == source[:-1] for name, source in blocks.items())
    save(model, tokenizer, tmp_path)
    node = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert node["shared"] == blocks
    stored = load_file(tmp_path / "model.safetensors")
    own = {name.rpartition(".")[2] for name in stored if name.startswith(tuple(f"{block}." for block in names))}
    assert own == ({"input_scale", "input_zero_point"} if kind == "int8" else set())
    check(tmp_path)
    loaded = load(tmp_path)
    assert shared_blocks(loaded, family_of(family)) == blocks
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    assert sum(tensor.numel() for tensor in weights(loaded)) == sum(tensor.numel() for tensor in weights(model))
    second = tmp_path / "second"
    second.mkdir()
    save(loaded, tokenizer, second)
    for name in ("model.safetensors", "config.json"):
        assert (second / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_count_what_is_shared_once(family, shared):
    dense, model = build(family), shared(family)
    blocks = shared_blocks(model, family_of(family))
    saved = sum(p.numel() for name in blocks for p in dense.get_submodule(name).parameters())
    counts = [sum(tensor.numel() for tensor in weights(one)) for one in (dense, model)]
    assert counts[0] - counts[1] == saved > 0


def test_masks_lie_once_on_what_is_shared(shared, context, no_budget):
    model = follow("prune", shared("bert"), "bert", context, no_budget)
    first, second = (model.bert.encoder.layer[index].output.dense for index in (0, 1))
    assert first.weight is second.weight and is_pruned(first) and is_pruned(second)
    assert int((first.weight == 0).sum()) == 0.75 * first.weight.numel()


def test_codes_are_packed_once_and_each_layer_keeps_its_grid(shared, context, no_budget):
    model = follow("int8", shared("bert"), "bert", context, no_budget)
    first, second = (model.bert.encoder.layer[index].output.dense for index in (0, 1))
    assert isinstance(first, Int8Linear) and first is not second
    assert first.weight is second.weight and first.bias is second.bias
    assert first.input_scale is not second.input_scale and float(first.input_scale) != float(second.input_scale)


@pytest.mark.parametrize(
    ("kept", "expected"), [([0, 1, 2], {1: 0}), ([1, 3], {}), ([1, 2, 3], {2: 1}), ([0, 2, 1], {2: 0})]
)
def test_copies_of_layers_share_what_their_originals_share(kept, expected, shared):
    model = shared("bert")
    copied = with_layers(model, family_of("bert"), {"encoder": kept})
    place = "bert.encoder.layer"
    found = shared_blocks(copied, family_of("bert"))
    assert found == {f"{place}.{name}": f"{place}.{source}" for name, source in expected.items()}
    for index, old in enumerate(kept):
        mine, theirs = (
            dict(one.get_submodule(f"{place}.{at}").named_parameters()) for one, at in ((copied, index), (model, old))
        )
        assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


def test_transformers_reads_it_too(shared, batch, tmp_path, tokenizer):
    model = shared("bert")
    save(model, tokenizer, tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.bert.encoder.layer[1].output.dense.weight is loaded.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(logits(loaded, batch), logits(model, batch))


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({}, r"layer.1.\S+ is missing"),
        ({"1": "0", "2": "0"}, r"layer.2.\S+ is not expected"),
        ({"1": "0", "3": "1"}, "layer.3 cannot share the weights of bert.encoder.layer.1"),
        ({"1": "1"}, "layer.1 cannot share the weights of bert.encoder.layer.1"),
        ({"1": "7"}, "cannot share the weights of bert.encoder.layer.7"),
        ({"7": "0"}, "layer.7 is no module"),
        ({"1": "0.output"}, "layer.1 cannot share the weights of bert.encoder.layer.0.output"),
        ([1], "damaged"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(told, sentence, shared, tmp_path, tokenizer):
    save(shared("bert"), tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    place = "bert.encoder.layer."
    if isinstance(told, dict):
        told = {place + name: place + source for name, source in told.items()}
    config["quantization_config"]["shared"] = told
    (tmp_path / "config.json").write_text(json.dumps(config))
    for reader in (check, load):
        with pytest.raises(UserError, match=sentence):
            reader(tmp_path)

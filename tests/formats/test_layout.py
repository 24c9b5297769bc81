"""What is written is what will be loaded, and a file that is not the model's is refused in one sentence."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedTokenizerFast

import compress_exp.hf  # noqa: F401
from compress_exp.config.checks import UserError
from compress_exp.formats.artifact import check, load, save
from compress_exp.layers.int8 import Int8Linear
from compress_exp.layers.slices import keep_inputs, keep_outputs
from compress_exp.layers.surgery import mark_pruned
from compress_exp.methods.quant.bf16 import BFloat16
from compress_exp.methods.quant.int8 import Int8
from tests.moments import at

QUERY = "bert.encoder.layer.0.attention.self.query"
INTERMEDIATE = "bert.encoder.layer.1.intermediate"
OUTPUT = "bert.encoder.layer.1.output.dense"


@pytest.fixture
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))


class LowRank(nn.Module):
    """A module that nothing knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 4, bias=False), nn.Linear(4, width)

    def forward(self, inputs):
        return self.up(self.down(inputs))


class Doubled(nn.Linear):
    """The tensors of a Linear, and something else done with them."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


class Plus(nn.Module):
    def forward(self, weight):
        return weight + 1


def unknown(model):
    model.set_submodule(QUERY, LowRank(32))


def int8_inside(model):
    model.set_submodule(QUERY, nn.Sequential(Int8Linear(32, 32)))


def same_tensors(model):
    model.set_submodule(QUERY, Doubled(32, 32))


def activation(model):
    model.get_submodule(INTERMEDIATE).intermediate_act_fn = nn.ReLU()


def parametrized(model):
    parametrize.register_parametrization(model.get_submodule(QUERY), "weight", Plus())


def hidden_state(model):
    model.get_submodule(QUERY).register_buffer("offset", torch.ones(3), persistent=False)


def state(model):
    model.get_submodule(QUERY).register_buffer("offset", torch.ones(3))


def no_bias(model):
    model.get_submodule(QUERY).bias = None


def double(model):
    module = model.get_submodule(QUERY)
    module.bias = nn.Parameter(module.bias.detach().double())


def shared(model):
    first, second = (model.get_submodule(QUERY.replace("0", index)) for index in "01")
    second.weight = first.weight


def narrower(model):
    keep_outputs(model.get_submodule(QUERY), torch.arange(8))


def narrow_rank(model):
    """A width that no description tells: between the word embeddings' and the blocks'."""
    keep_inputs(model.get_submodule("classifier"), torch.arange(30))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (unknown, f"{QUERY} is LowRank and no Linear, {QUERY}.down is Linear and no module of the architecture"),
        (int8_inside, f"{QUERY}.0 is no module of BertForSequenceClassification"),
        (same_tensors, f"({QUERY} is Doubled and no Linear)"),
        (activation, f"({INTERMEDIATE}.intermediate_act_fn is ReLU and no GELUActivation)"),
        (parametrized, f"{QUERY} is ParametrizedLinear and no Linear, {QUERY}.parametrizations"),
        (hidden_state, f"({QUERY}.offset is a buffer that is not stored)"),
        (state, f"({QUERY}.offset is not expected)"),
        (no_bias, f"({QUERY}.bias is missing)"),
        (double, f"({QUERY}.bias is F64 [32] and not F32 [32])"),
        (shared, f"({QUERY.replace('0', '1')}.weight is missing)"),
        (narrower, f"({QUERY}.bias is F32 [8] and not F32 [32], {QUERY}.weight is F32 [8, 32] and not F32 [32, 32])"),
        (narrow_rank, "(classifier.weight is F32 [2, 30] and not F32 [2, 32])"),
    ],
)
def test_what_would_come_back_different_is_not_written(change, told, tiny, tmp_path, tokenizer):
    model = tiny("bert")
    change(model)
    with pytest.raises(UserError) as refused:
        save(model, tokenizer, tmp_path)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_three_are_named_and_the_others_counted(tiny, tmp_path, tokenizer):
    model = tiny("bert")
    for name, module in list(model.named_modules()):
        if name.endswith("query"):
            model.set_submodule(name, LowRank(module.in_features))
    with pytest.raises(UserError) as refused:
        save(model, tokenizer, tmp_path)
    # Of each of 4 layers: 3 modules of another class, 3 tensors too many, 2 missing.
    assert f"({QUERY} is LowRank" in str(refused.value)
    assert f"and {4 * (3 + 3 + 2) - 3} more); a method may" in str(refused.value)


def test_an_int8_head_that_shares_a_scale_only_is_not_written(tiny, context, no_budget, tmp_path, tokenizer):
    method = Int8(name="quant/static", train=no_budget)
    model = method.convert(at(method.prepare(tiny("gpt2"), context("gpt2"))))
    model.lm_head.weight = model.lm_head.weight.clamp(-50, 50)
    with pytest.raises(UserError, match=r"\(lm_head\.weight_scale is missing\)"):
        save(model, tokenizer, tmp_path)


def written(kind, tiny, context, no_budget, tokenizer, directory):
    """An artifact of one kind, and the name of a tensor of it that is stored as it is."""
    model = tiny("gpt2" if kind in ("patterns", "tied") else "bert")
    if kind == "int8":
        method = Int8(name="quant/static", train=no_budget)
        model = method.convert(at(method.prepare(model, context("bert"))))
    if kind == "bf16":
        model = BFloat16(name="quant/bf16", train=no_budget).convert(at(model))
    if kind == "bitmask":
        module = model.get_submodule(QUERY)
        module.weight.data[:, ::3] = 0
        module.weight.data[:16] = 0
        mark_pruned(module)
    if kind == "patterns":
        module = model.transformer.h[0].mlp.c_fc
        module.weight.data.view(-1, 4, 64)[:, :2] = 0
        mark_pruned(module)
    save(model, tokenizer, directory)
    return "transformer.h.1.ln_1.weight" if kind in ("patterns", "tied") else f"{QUERY}.bias"


def edit(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


EDITS = {
    "missing": (lambda tensors, name: tensors.pop(name), "{name} is missing"),
    "renamed": (lambda tensors, name: tensors.update({f"{name}_": tensors.pop(name)}), "{name} is missing, {name}_ is"),
    "reshaped": (lambda tensors, name: tensors.update({name: tensors[name].view(4, -1)}), "{name} is"),
    "longer": (lambda tensors, name: tensors.update({name: tensors[name].repeat(2)}), "{name} is"),
    "extra": (lambda tensors, name: tensors.update({"extra.weight": tensors[name].clone()}), "extra.weight is not exp"),
    "dtype": (lambda tensors, name: tensors.update({name: tensors[name].to(torch.float16)}), "{name} is F16"),
}


@pytest.mark.parametrize("wrong", EDITS)
@pytest.mark.parametrize("kind", ["plain", "bf16", "int8", "bitmask", "patterns", "tied"])
def test_a_file_that_is_not_the_models_is_refused(
    kind, wrong, tiny, context, no_budget, tokenizer, tmp_path, capfd, caplog
):
    name = written(kind, tiny, context, no_budget, tokenizer, tmp_path)
    check(tmp_path)
    change, told = EDITS[wrong]
    edit(tmp_path, lambda tensors: change(tensors, name))
    readers = [load, check]
    if kind in ("int8", "bitmask", "patterns"):
        auto = transformers.AutoModelForSequenceClassification if name == f"{QUERY}.bias" else None
        readers.append((auto or transformers.AutoModelForCausalLM).from_pretrained)
    for reader in readers:
        with pytest.raises(UserError) as refused:
            reader(tmp_path)
        assert str(tmp_path) in str(refused.value)
        assert told.format(name=name) in str(refused.value)
        assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_the_tensor_that_others_share_is_needed(tiny, context, no_budget, tokenizer, tmp_path):
    written("tied", tiny, context, no_budget, tokenizer, tmp_path)
    edit(tmp_path, lambda tensors: tensors.pop("transformer.wte.weight"))
    with pytest.raises(UserError, match=r"\(lm_head\.weight is missing, transformer\.wte\.weight is missing\)"):
        load(tmp_path)


@pytest.mark.parametrize("part", ["weight", "weight_scale", "input_scale", "input_zero_point"])
def test_no_part_of_an_int8_linear_may_be_missing_or_of_another_dtype(
    part, tiny, context, no_budget, tokenizer, tmp_path
):
    written("int8", tiny, context, no_budget, tokenizer, tmp_path)
    name = f"{QUERY}.{part}"
    edit(tmp_path, lambda tensors: tensors.update({name: tensors[name].to(torch.int16)}))
    with pytest.raises(UserError, match=rf"\({name} is I16 \["):
        load(tmp_path)
    edit(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=rf"\({name} is missing\)"):
        load(tmp_path)


def pop(suffix):
    return lambda tensors, name: tensors.pop(name + suffix)


def cut(suffix, length):
    return lambda tensors, name: tensors.update({name + suffix: tensors[name + suffix][:length].clone()})


def cast(suffix, dtype):
    return lambda tensors, name: tensors.update({name + suffix: tensors[name + suffix].to(dtype)})


def dense_too(tensors, name):
    tensors[name] = torch.zeros(32, 32)


def another_bit(tensors, name):
    tensors[f"{name}_bitmask"][0] ^= 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (pop("_bitmask"), "is there as values only"),
        (pop("_values"), "is there as bitmask only"),
        (dense_too, "is there as bitmask and dense and values"),
        (cut("_bitmask", 100), "_bitmask is U8 [100] and not U8 [128]"),
        (cast("_bitmask", torch.int8), "_bitmask is I8 [128] and not U8 [128]"),
        (cast("_values", torch.bfloat16), "_values is BF16"),
        (cut("_values", 100), " has 100 values under a bitmask of "),
        (cut("_values", 1), " has 1 values under a bitmask of "),
        (another_bit, " has 336 values under a bitmask of 337"),
    ],
)
def test_a_bitmask_and_its_values_belong_together(change, told, tiny, context, no_budget, tokenizer, tmp_path):
    written("bitmask", tiny, context, no_budget, tokenizer, tmp_path)
    edit(tmp_path, lambda tensors: change(tensors, f"{QUERY}.weight"))
    for reader in (load, transformers.AutoModelForSequenceClassification.from_pretrained):
        with pytest.raises(UserError) as refused:
            reader(tmp_path)
        assert f"({QUERY}.weight{'' if told[0] in ' _' else ' '}{told}" in str(refused.value)


def no_such_pattern(tensors, name):
    tensors[f"{name}_patterns"][:] = 255  # three bits of 1: number 7 of the six patterns of 2:4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (cut("_values", 500), "_values of [500, 2] does not fit into groups of [32, 64]"),
        (lambda tensors, name: tensors.update({f"{name}_values": torch.ones(1024)}), "_values of [1024] does not fit"),
        (cut("_patterns", 100), "_patterns is U8 [100] and not U8 [192]"),
        (no_such_pattern, " has pattern 7 of 6"),
    ],
)
def test_patterns_and_their_values_belong_together(change, told, tiny, context, no_budget, tokenizer, tmp_path):
    written("patterns", tiny, context, no_budget, tokenizer, tmp_path)
    name = "transformer.h.0.mlp.c_fc.weight"
    edit(tmp_path, lambda tensors: change(tensors, name))
    with pytest.raises(UserError) as refused:
        load(tmp_path)
    assert f"({name}{told}" in str(refused.value)


def describe_anew(directory, **told):
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] |= told
    (directory / "config.json").write_text(json.dumps(config))


def modules(kind, name):
    return {"modules": [{"kind": kind, "spec": {}, "names": [name]}]}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (modules("int8_linear", "bert.nowhere"), "bert.nowhere is no module of BertForSequenceClassification"),
        (modules("int8_linear", "bert.embeddings.LayerNorm"), "bert.embeddings.LayerNorm is LayerNorm and no Linear"),
        (modules("int8_embedding", "classifier"), "classifier is Linear and no Embedding"),
        (modules("os.system", "classifier"), "classifier is of kind 'os.system', which this release does not know"),
        ({"modules": [{"names": ["classifier"]}]}, "quantization_config of config.json is damaged (KeyError('kind'))"),
        ({"tensors": {f"{QUERY}.weight": "n_m"}}, f"{QUERY}.weight is there as bitmask and values"),
        (
            {"heads": {QUERY.removesuffix(".query"): 1}},
            f"{QUERY.replace('query', 'key')}.bias is F32 [32] and not F32 [16]",
        ),
        ({"tied": {QUERY: "classifier"}}, f"{QUERY} cannot share the weight of classifier"),
        ({"pruned": []}, f"{QUERY}.weight has a codec, and {QUERY} is not pruned"),
        ({"format": 3}, "format 3 is newer than this release"),
    ],
)
def test_a_description_that_is_not_the_models_is_refused(told, message, tiny, context, no_budget, tokenizer, tmp_path):
    written("bitmask", tiny, context, no_budget, tokenizer, tmp_path)
    describe_anew(tmp_path, **told)
    for reader in (load, check):
        with pytest.raises(UserError) as refused:
            reader(tmp_path)
        assert message in str(refused.value)


def test_another_architecture_than_the_artifacts_is_refused(tiny, context, no_budget, tokenizer, tmp_path):
    written("bitmask", tiny, context, no_budget, tokenizer, tmp_path)
    with pytest.raises(UserError, match=rf"\({QUERY} is no module of BertModel\)"):
        transformers.AutoModel.from_pretrained(tmp_path)


def test_weights_that_another_package_packed_are_refused(tiny, tokenizer, tmp_path):
    save(tiny("bert"), tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match="are stored as 'gptq'"):
        load(tmp_path)


def test_an_ordinary_checkpoint_is_read_with_what_transformers_always_passes_over(tiny, tokenizer, tmp_path, batch):
    model = tiny("bert")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def as_of_old(tensors):
        tensors["bert.embeddings.position_ids"] = torch.arange(512).unsqueeze(0)
        for part, old in (("weight", "gamma"), ("bias", "beta")):
            tensors[f"bert.embeddings.LayerNorm.{old}"] = tensors.pop(f"bert.embeddings.LayerNorm.{part}")

    edit(tmp_path, as_of_old)
    check(tmp_path)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(**inputs).logits, model(**inputs).logits)

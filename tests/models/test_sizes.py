from __future__ import annotations

import json

import pytest
import torch

from compress_exp.config.checks import FieldError, UserError
from compress_exp.models.families.base import block_sizes, family_of, input_widths, layer_counts
from compress_exp.models.loading import Model, read_config
from compress_exp.models.sizes import parameter_count, told
from tests.conftest import ARCHITECTURES
from tests.experiments import SMALL, configure

ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def sizes(config, family):
    return layer_counts(config, family), block_sizes(config, family), input_widths(config, family), config.vocab_size


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_is_read_from_a_file_is_what_transformers_reads(model_type, tiny):
    config, family = tiny(model_type).config, family_of(model_type)
    settings = json.loads(config.to_json_string(use_diff=True))
    read = told(settings, family)
    assert read is not None
    assert sizes(read, family) == sizes(config, family)


def test_what_is_left_to_defaults_or_told_by_another_name_is_left_to_transformers():
    gpt2, t5 = family_of("gpt2"), family_of("t5")
    plain = {"vocab_size": 320, "n_embd": 32, "n_layer": 1, "n_head": 2}
    assert told(plain, gpt2) is None
    assert told(plain | {"n_inner": None}, gpt2) is None
    assert told(plain | {"n_inner": 64, "hidden_size": 16}, gpt2) is None
    model = Model(name="x", architecture={"model_type": "gpt2", "hidden_size": 32, "n_layer": 1, "n_head": 2})
    assert input_widths(read_config(model), gpt2)["ffn_out"] == (128,)
    settings = {"model_type": "t5", "d_model": 32, "num_layers": 3, "num_heads": 2, "d_kv": 8, "d_ff": 64}
    assert layer_counts(read_config(Model(name="x", architecture=settings)), t5) == {"encoder": 3, "decoder": 3}


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("hidden_size", "abc", r"architecture\.hidden_size: 'abc' is not allowed, a whole number of at least 1 is"),
        ("num_attention_heads", 0, r"architecture\.num_attention_heads: 0 is not allowed"),
        ("num_hidden_layers", True, r"architecture\.num_hidden_layers: True is not allowed"),
        ("hidden_size", 33, r"architecture\.num_attention_heads: 2 heads do not divide hidden_size=33"),
        ("num_hidden_layers", None, r"architecture: transformers refuses it .*num_hidden_layers"),
        ("layer_norm_eps", "x", r"architecture: transformers refuses it .*layer_norm_eps"),
        ("hidden_act", "foo", r"architecture: transformers refuses it .*foo"),
    ],
)
def test_settings_that_make_no_model_are_one_sentence(setting, value, sentence):
    with pytest.raises(UserError, match=rf"^model\.{sentence}"):
        model = Model(name="x", architecture={"model_type": "bert", **ENCODER, setting: value})
        read_config(model)
        model.check_architecture()


def test_key_value_heads_that_do_not_divide_the_heads_are_refused():
    sizes = ENCODER | {"vocab_size": 9, "num_attention_heads": 4, "num_key_value_heads": 3, "head_dim": 8}
    with pytest.raises(FieldError, match="^num_key_value_heads: 3 key-value heads do not divide num_attention_heads=4"):
        told(sizes, family_of("llama"))


def test_the_vocabulary_is_set_in_one_place():
    with pytest.raises(UserError, match=r"model\.architecture\.vocab_size: .* model\.vocabulary"):
        Model(name="x", architecture={"model_type": "bert", "vocab_size": 50}).check()


def test_a_file_with_an_impossible_size_is_named_by_its_key(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", "vocab_size": 9, **ENCODER} | {"hidden_size": -1})
    )
    with pytest.raises(FieldError, match="hidden_size"):
        told(json.loads((tmp_path / "config.json").read_text()), family_of("bert"))
    with pytest.raises(UserError, match=r"^method\.distill\.student\.path\.hidden_size: -1 is not allowed"):
        read_config(Model(name="x", path=str(tmp_path)), "method.distill.student")


@pytest.mark.parametrize("family", SMALL)
def test_the_parameters_of_random_weights_are_told_within_a_tenth(family, data):
    import transformers

    architecture = dict(configure(family, data, "method=quant").model.architecture)
    model = Model(name="x", architecture=architecture, vocabulary=320)
    config = transformers.AutoConfig.for_model(**architecture, vocab_size=320)
    with torch.device("meta"):
        built = transformers.AutoModel.from_config(config).num_parameters()
    assert model.parameters() == parameter_count(config, family_of(config.model_type)) == pytest.approx(built, rel=0.1)


def test_the_parameters_of_a_checkpoint_are_those_of_its_file(tiny, tmp_path):
    model = tiny("bert")
    model.save_pretrained(tmp_path)
    assert Model(name="x", path=str(tmp_path)).parameters() == model.num_parameters()

from __future__ import annotations

import json
import re

import pytest
import torch
import transformers

from compress_exp.config.checks import UserError
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import block_sizes, family_of, input_widths, model_types
from compress_exp.models.loading import Model, read_config
from compress_exp.models.sizes import parameter_count

XLM = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
XLM |= {"vocab_size": 200, "max_position_embeddings": 40}


def test_a_type_with_hyphens_is_found_and_listed() -> None:
    model = transformers.XLMRobertaForSequenceClassification(transformers.XLMRobertaConfig(**XLM)).eval()
    family = family_of(model.config.model_type)
    assert model.config.model_type == "xlm-roberta" and "xlm-roberta" in model_types()
    chosen = targets(model, family, Select())
    assert [target.role for target in chosen[:6]] == [
        *("query", "key", "value", "attention_output"),
        *("ffn_in", "ffn_out"),
    ]
    assert len(chosen) == 12


def test_positions_are_as_many_as_the_model_takes() -> None:
    model = transformers.XLMRobertaForSequenceClassification(transformers.XLMRobertaConfig(**XLM)).eval()
    longest = family_of("xlm-roberta").positions(model.config)
    assert longest is not None
    ids = torch.full((1, longest), 7)
    with torch.no_grad():
        model(ids)
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, longest + 1), 7))
    assert family_of("t5").positions(transformers.T5Config()) is None


def test_heads_that_share_keys_are_counted_by_their_keys(tmp_path) -> None:
    sizes = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    sizes |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192}
    (tmp_path / "config.json").write_text(json.dumps(sizes))  # SmolLM2's, which does not tell the width of a head
    config, family = read_config(Model(name="x", path=str(tmp_path))), family_of("llama")
    assert block_sizes(config, family) == ({"decoder": 3}, {"decoder": 1536}) and family.heads.queries(config) == 3
    widths = input_widths(config, family)
    assert widths["attention_output"] == (576,) and widths["key"] == (576,) and widths["ffn_out"] == (1536,)
    with torch.device("meta"):
        built = transformers.LlamaModel(transformers.LlamaConfig(**sizes)).num_parameters()
    assert parameter_count(config, family) == pytest.approx(built, rel=0.001)
    assert family_of("bert").heads.queries(transformers.BertConfig()) == 1


def test_the_projection_of_narrow_embeddings_is_outside_the_blocks() -> None:
    config = transformers.ElectraConfig(**XLM, embedding_size=16)
    model, family = transformers.ElectraForSequenceClassification(config), family_of("electra")
    assert all(".layer." in name for target in targets(model, family, Select()) for name in target.names)


@pytest.mark.parametrize("name", ["base", "mpnet", "../bert", "BERT", "None", ""])
def test_what_has_no_family_is_refused_with_the_list(name: str) -> None:
    sentence = re.escape(f"model: models of type {name!r} are not supported; allowed: albert, bart, bert, ")
    with pytest.raises(UserError, match=f"^{sentence}"):
        family_of(name)


def test_every_family_is_a_type_of_transformers() -> None:
    assert set(model_types()) <= set(transformers.CONFIG_MAPPING)

from __future__ import annotations

import re

import pytest
import torch
import transformers

from compress_exp.config.checks import UserError
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import family_of, model_types

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


@pytest.mark.parametrize("name", ["base", "mpnet", "../bert", "BERT", "None", ""])
def test_what_has_no_family_is_refused_with_the_list(name: str) -> None:
    sentence = re.escape(f"model: models of type {name!r} are not supported; allowed: albert, bart, bert, ")
    with pytest.raises(UserError, match=f"^{sentence}"):
        family_of(name)


def test_every_family_is_a_type_of_transformers() -> None:
    assert set(model_types()) <= set(transformers.CONFIG_MAPPING)

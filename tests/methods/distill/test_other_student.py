"""A student that is another checkpoint."""

from __future__ import annotations

import pytest
import torch
import transformers

from compress_exp.config.checks import UserError
from compress_exp.experiment.build import apply_stage
from compress_exp.formats.artifact import save
from compress_exp.models.families.base import family_of
from compress_exp.models.tokenizers import train_tokenizer
from tests.experiments import planned


@pytest.fixture
def base(dense, data):
    return dense(planned("bert", data, "method=finetune"))


@pytest.fixture
def tokenizer(base):
    return transformers.AutoTokenizer.from_pretrained(base)


def checkpoint(directory, tokenizer):
    """A narrow BERT with that tokenizer."""
    directory.mkdir()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    save(transformers.BertModel(transformers.BertConfig(vocab_size=len(tokenizer), **sizes)), tokenizer, directory)
    return directory


@pytest.mark.parametrize("way", ["directory", "model"])
def test_it_learns_from_the_dense_model(way, base, tokenizer, data, tmp_path):
    other = checkpoint(tmp_path / "other", tokenizer)
    choice = [f"method.distill.student={other}"]
    if way == "model":
        choice = ["+model@method.distill.student=bert", f"method.distill.student.path={other}"]
    plan = planned("bert", data, "method=distill", *choice)
    built = apply_stage(plan, 0, base, base, tmp_path)
    assert built.model.config.hidden_size == 16
    assert {"hard", "soft"} <= set(built.history[0])


def test_both_ways_are_one_artifact_and_content_decides(tokenizer, data, tmp_path):
    other = checkpoint(tmp_path / "other", tokenizer)
    keys = {
        planned("bert", data, "method=distill", *choice).stage_recipe(0)["methods"][0]["student"]["content"]
        for choice in (
            [f"method.distill.student={other}"],
            ["+model@method.distill.student=bert", f"method.distill.student.path={other}"],
        )
    }
    assert len(keys) == 1


def test_another_vocabulary_is_refused(base, data, tmp_path):
    other = checkpoint(
        tmp_path / "other", train_tokenizer(family_of("bert").text, 300, iter(["quite another text"] * 9), 32)
    )
    plan = planned("bert", data, "method=distill", f"method.distill.student={other}")
    with pytest.raises(UserError, match="another vocabulary"):
        apply_stage(plan, 0, base, base, tmp_path)


def test_it_must_come_first(tokenizer, data, tmp_path):
    other = checkpoint(tmp_path / "other", tokenizer)
    with pytest.raises(UserError, match="put it first"):
        planned("bert", data, "method=[prune,distill]", f"method.distill.student={other}")

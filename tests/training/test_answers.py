"""Kept answers are those that the teacher gives to the same rows, in whatever batches they come."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from compress_exp.config.checks import UserError
from compress_exp.formats.artifact import load
from compress_exp.training.answers import FILE, KeptAnswers, spread, write_answers
from compress_exp.training.data import Batches
from compress_exp.training.teacher import SameTokens
from tests.experiments import planned


def taught(family, data, dense):
    plan = planned(family, data, "method=finetune")
    place = dense(plan)
    model, tokenizer = load(place), AutoTokenizer.from_pretrained(place)
    return plan.task, tokenizer, plan.task.features("train", tokenizer, model.config), SameTokens(model, plan.task)


@pytest.mark.parametrize(
    ("family", "top_k"),
    [("bert", None), ("bert", 1), ("gpt2", None), ("gpt2", 40), ("t5", None), ("t5", 1), ("t5", 40)],
)
def test_they_are_the_teachers(family, top_k, data, dense, tmp_path):
    task, tokenizer, features, teacher = taught(family, data, dense)
    write_answers(teacher, task, features, tokenizer, tmp_path, top_k, torch.device("cpu"))
    kept = KeptAnswers(tmp_path, features)
    batches = list(Batches(features, lambda rows: task.collate(rows, tokenizer), 5, 3, True, 12))
    for batch in batches:
        found, asked = kept.outputs(batch, ())["logits"], teacher.outputs(batch, ())["logits"]
        assert found.shape == asked.shape
        if top_k is None:
            torch.testing.assert_close(found, asked, rtol=1e-4, atol=1e-5)
            continue
        found, asked = found.softmax(-1), asked.softmax(-1)
        order = asked.argsort(-1, descending=True)
        found, asked = found.gather(-1, order), asked.gather(-1, order)
        torch.testing.assert_close(found[:, :top_k], asked[:, :top_k], rtol=1e-3, atol=1e-6)
        rest = asked[:, top_k:].mean(-1, keepdim=True).expand_as(asked[:, top_k:])
        torch.testing.assert_close(found[:, top_k:], rest, rtol=1e-3, atol=1e-6)
    tensors = load_file(tmp_path / FILE)
    names = {"logits"} if top_k is None else {"indices", "log_probabilities"}
    assert tensors.keys() == {"starts", "classes", *names}


def test_the_rest_is_spread_evenly():
    found = spread(torch.tensor([[2, 0]]), torch.tensor([[math.log(0.6), math.log(0.3)]]), 5).softmax(-1)
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.1 / 3, 0.6, 0.1 / 3, 0.1 / 3]]))
    sure = spread(torch.tensor([[1]]), torch.tensor([[0.0]]), 3)
    assert bool(sure.isfinite().all()) and float(sure.softmax(-1)[0, 1]) == pytest.approx(1.0)


def test_answers_to_other_rows_are_refused(data, dense, tmp_path):
    task, tokenizer, features, teacher = taught("bert", data, dense)
    write_answers(teacher, task, features, tokenizer, tmp_path, None, torch.device("cpu"))
    with pytest.raises(UserError, match=r"^artifact: the answers in .* are to other rows than these; remove it$"):
        KeptAnswers(tmp_path, features[::-1])

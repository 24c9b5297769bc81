"""What a teacher says stands beside what the student says of the same example."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from compress_exp.formats.artifact import load
from compress_exp.models.forward import FEATURES
from compress_exp.training.data import Batches
from compress_exp.training.teacher import Ensemble, OwnTokens, SameTokens, mean_logits
from tests.experiments import planned


def test_the_mean_is_that_of_probabilities():
    one, other = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]), torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.5, 0.0]])
    found = mean_logits([one.log() + 5.0, (other + 1e-30).log() - 3.0]).softmax(-1)
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.4, 0.2], [0.3, 0.3, 0.4]]))
    assert mean_logits([torch.tensor([[1.0], [4.0]]), torch.tensor([[2.0], [0.0]])]).tolist() == [[1.5], [2.0]]


@pytest.fixture(scope="module")
def taught(data, dense):
    """A task, batches of a student, and teachers with the student's tokenizer and with a smaller one of its own."""
    plan = planned("bert", data, "method=finetune")
    places = [dense(plan), dense(planned("bert", data, "method=finetune", "model.vocabulary=300"))]
    (model, tokenizer), (other, own) = ((load(place), AutoTokenizer.from_pretrained(place)) for place in places)
    features = plan.task.features("train", tokenizer, model.config)
    batches = Batches(features, lambda rows: plan.task.collate(rows, tokenizer), 8, 0, True, 6)
    same = SameTokens(model, plan.task)
    others = OwnTokens(other, plan.task, own, plan.task.features("train", own, other.config))
    return plan.task, list(batches), same, others


def logits_of_texts(teacher, texts, tokenizer):
    """Text by text, tokenized here."""
    with torch.no_grad():
        return torch.cat([teacher.model(**tokenizer(text, return_tensors="pt")).logits for text in texts])


def test_a_teacher_with_tokens_of_its_own_answers_for_the_students_examples(taught):
    task, batches, same, others = taught
    texts = [row["text"] for row in task.rows("train")]
    seen = []
    for batch in batches:
        seen += batch[FEATURES].tolist()
        expected = logits_of_texts(others, [texts[number] for number in batch[FEATURES].tolist()], others.tokenizer)
        found = others.outputs(batch, {"logits"})
        assert found.keys() == {"logits"}
        torch.testing.assert_close(found["logits"], expected, rtol=1e-5, atol=1e-6)
    assert sorted(seen) == list(range(len(texts)))  # an epoch, in another order
    assert seen != sorted(seen)


def test_several_teachers_answer_with_the_mean_of_their_probabilities(taught):
    _, batches, same, others = taught
    batch = batches[0]
    one, other = (teacher.outputs(batch, {"logits"})["logits"] for teacher in (same, others))
    assert not torch.equal(one, other)
    found = Ensemble([same, others]).outputs(batch, {"logits"})["logits"].softmax(-1)
    torch.testing.assert_close(found, (one.softmax(-1) + other.softmax(-1)) / 2)


def test_teachers_are_frozen_and_drop_nothing_out(taught):
    _, _, same, others = taught
    for teacher in (same, others):
        assert not teacher.model.training
        assert not any(parameter.requires_grad for parameter in teacher.model.parameters())

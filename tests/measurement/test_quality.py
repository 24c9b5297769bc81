from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig

from compress_exp.config.checks import UserError
from compress_exp.measurement.quality import Evaluation, FinitePredictor, evaluate, quality, retained, undefined
from compress_exp.outputs.store import Store
from compress_exp.runtimes.eager import EagerPredictor
from compress_exp.tasks.base import Predictions, Task
from tests.conftest import build_model
from tests.tasks.helpers import task, word_tokenizer, write_jsonl

NAN, INFINITY = float("nan"), float("inf")
WORDS = ["a b c", "b c", "c a b a", "a"]


class Answering:
    """One logit, or equal ones for all tokens but the last, of any row."""

    config = BertConfig(vocab_size=12, max_position_embeddings=64)

    def __init__(self, answers: dict[int, float], usual: float = 0.25) -> None:
        self.answers, self.usual, self.last, self.tokens = answers, usual, usual, False

    def outputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        rows, length = batch["input_ids"].shape
        shape = (rows, length, 12) if self.tokens else (rows, 1)
        logits = torch.full(shape, self.usual)
        logits[..., 1:][..., -1:] = self.last
        for row, value in self.answers.items():
            logits[row].view(-1)[-1] = value
        return {"logits": logits}


def regression(directory: Path) -> Task:
    for split in ("train", "validation"):
        rows = [{"text": text, "label": number / 4} for number, text in enumerate(WORDS)]
        write_jsonl(directory / f"{split}.jsonl", rows)
    built: Task = task("classification", data_dir=str(directory), regression=True)
    return built


def language(directory: Path) -> Task:
    for split in ("train", "validation"):
        write_jsonl(directory / f"{split}.jsonl", [{"text": text} for text in WORDS])
    built: Task = task("language_modelling", data_dir=str(directory), max_length=6, stride=6)
    return built


def evaluated(one: Task, predictor: Any, place: Path, key: str = "dense") -> Evaluation:
    recipe = {"artifact": key, "runtime": {"runtime": "eager"}}
    tokenizer = word_tokenizer([*WORDS, "\n\n"], framed=False)
    return evaluate(Store(place / "evaluations"), recipe, one, lambda: predictor, tokenizer, False)


def test_retained_quality() -> None:
    assert retained(0.9, 0.95, True) == pytest.approx(0.9 / 0.95)
    assert retained(20.0, 10.0, False) == pytest.approx(0.5)
    assert retained(0.1, 0.0, True) is None and retained(0.1, -0.2, True) is None
    assert retained(-0.1, 0.5, True) == pytest.approx(-0.2)
    assert retained(None, 0.5, True) is None and retained(0.5, None, False) is None


@pytest.mark.parametrize(("value", "told"), [(NAN, "NaN"), (INFINITY, "infinity"), (-INFINITY, "infinity")])
@pytest.mark.parametrize("kind", [regression, language])
def test_one_output_that_is_not_finite_ends_the_evaluation_of_any_task(
    kind: Any, value: float, told: str, tmp_path: Path
) -> None:
    predictor = Answering({1: value})
    predictor.tokens = kind is language
    with pytest.raises(UserError, match=rf"^artifact dense in eager: .*not finite, {told} in 1 of \d rows") as caught:
        evaluated(kind(tmp_path), predictor, tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("evaluations/*/evaluation.json"))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("model_type", ["t5", "bart", "gpt2"])
def test_generated_tokens_are_looked_at_where_they_come_from(model_type: str, beams: int) -> None:
    model = build_model(model_type)
    ids = torch.randint(5, 300, (2, 7), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    whole = FinitePredictor(EagerPredictor(model), "x")
    tokens = whole.generate(batch, 6, beams)
    assert torch.equal(tokens, EagerPredictor(model).generate(batch, 6, beams))
    # Embeddings of all but the prompt, whose tokens a whole head never chooses: outputs are finite until one is read.
    table = model.get_input_embeddings().weight
    new = torch.ones(len(table), dtype=torch.bool)
    new[ids] = new[model.generation_config.decoder_start_token_id or 0] = False
    head = torch.nn.Parameter(table.detach() * new[:, None])
    model.get_output_embeddings().weight = head
    table.data[new] = NAN
    with pytest.raises(UserError, match=r"^x: its outputs are not finite, NaN in \d of 2 rows"):
        whole.generate(batch, 6, beams)


def test_the_correlation_of_a_constant_answer_is_no_number_and_flagged(tmp_path: Path) -> None:
    one = regression(tmp_path)
    constant = evaluated(one, Answering({}), tmp_path, "own")
    assert constant.metrics == {"spearman": None, "pearson": None} and constant.interval == (None, None)
    dense = evaluated(one, Answering({0: 0.75, 1: 0.5}), tmp_path)  # longest rows first: a correlation there is
    assert dense.metrics["pearson"] is not None
    block = quality(one, constant, dense)
    json.dumps(block, allow_nan=False)
    assert block["primary"]["value"] is None and block["retained"] is None
    assert quality(one, dense, constant)["retained"] is None
    assert undefined(block) == [
        "undefined: spearman and pearson of the artifact (a constant answer, or too large for a number)"
    ]
    assert undefined(quality(one, dense, dense)) == []


def test_a_perplexity_too_large_for_a_number_is_none_and_flagged(tmp_path: Path) -> None:
    one = language(tmp_path)
    dense = evaluated(one, _tokens(Answering({})), tmp_path)
    assert dense.metrics["perplexity"] == pytest.approx(12)
    # The last token is never a label, and said with all certainty: the loss is about 1e30 nats.
    certain = _tokens(Answering({}))
    certain.last = 1e30
    destroyed = evaluated(one, certain, tmp_path, "own")
    block = quality(one, destroyed, dense)
    json.dumps(block, allow_nan=False)
    assert block["metrics"] == {"perplexity": None} and block["retained"] is None
    assert len(undefined(block)) == 1 and undefined(block)[0].startswith("undefined: perplexity of the artifact")


def test_divergences_that_are_no_number_stay_unknown() -> None:
    from compress_exp.tasks.features import mean_kl

    logits = np.zeros((2, 3), dtype=np.float32)
    assert mean_kl(logits, logits) == 0
    assert np.isnan(mean_kl(logits, np.array([[0, NAN, 0], [0, 0, 0]], dtype=np.float32)))


def _tokens(predictor: Answering) -> Answering:
    predictor.tokens = True
    return predictor


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    one = regression(tmp_path)
    first = evaluated(one, Answering({0: 0.75}), tmp_path)
    again = evaluated(one, Answering({0: NAN}), tmp_path)  # kept: nothing is asked again
    assert isinstance(again.predictions, Predictions) and again.metrics == first.metrics

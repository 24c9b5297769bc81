from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, GPT2Config, GPT2LMHeadModel

from compress_exp.config.checks import UserError
from compress_exp.tasks.base import Predictions
from compress_exp.tasks.language_modelling import kept_positions, pieces, windows
from tests.tasks.helpers import ModelPredictor, UniformPredictor, task, word_tokenizer, write_jsonl

WORDS = [f"w{index}" for index in range(20)]


@pytest.fixture
def text(tmp_path: Path) -> tuple[Path, list[str]]:
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(WORDS, size=17)) for _ in range(12)]
    write_jsonl(tmp_path / "train.jsonl", [{"text": line} for line in lines])
    write_jsonl(tmp_path / "validation.jsonl", [{"text": line} for line in lines])
    return tmp_path, " ".join(lines).split()


def build(directory: Path, **overrides: object):
    settings = {"max_length": 16, "stride": 8, "join": " ", "data_dir": str(directory)} | overrides
    return task("language_modelling", **settings)


def gpt2(vocabulary: int) -> ModelPredictor:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocabulary, n_embd=16, n_layer=2, n_head=2, n_positions=16, initializer_range=0.3)
    return ModelPredictor(GPT2LMHeadModel(config))


@pytest.mark.parametrize(("count", "length", "stride"), [(203, 16, 8), (204, 16, 1), (17, 16, 15), (5, 16, 8)])
def test_each_token_is_scored_exactly_once(count: int, length: int, stride: int) -> None:
    scored = [position for begin, end, first in windows(count, length, stride) for position in range(first, end)]
    assert scored == list(range(1, count))
    assert all(end - begin <= length and begin < first for begin, end, first in windows(count, length, stride))


def test_side_by_side_windows_skip_their_first_token() -> None:
    assert list(windows(9, 4, 4)) == [(0, 4, 1), (4, 8, 5)]
    assert list(windows(10, 4, 4)) == [(0, 4, 1), (4, 8, 5), (8, 10, 9)]
    assert list(windows(1, 4, 4)) == []


@pytest.mark.parametrize("stride", [3, 8, 16])
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(text: tuple[Path, list[str]], stride: int) -> None:
    built, tokenizer = build(text[0], stride=stride), word_tokenizer(WORDS, framed=False)
    found = built.evaluate(UniformPredictor(37), tokenizer, progress=False)
    assert built.metrics(found)["perplexity"] == pytest.approx(37, rel=1e-6)
    assert built.interval(found) == pytest.approx((37, 37), rel=1e-6)
    scored = len(text[1]) - (1 if stride < 16 else 13)
    assert found.arrays["loss"].shape == found.arrays["prediction"].shape == (scored,)
    assert not built.higher_is_better and built.primary == "perplexity"


def test_perplexity_equals_a_token_by_token_computation(text: tuple[Path, list[str]]) -> None:
    directory, words = text
    tokenizer = word_tokenizer(WORDS, framed=False)
    predictor, ids = gpt2(len(tokenizer)), tokenizer.convert_tokens_to_ids(words)
    losses, best = [], []
    for position in range(1, len(ids)):
        begin = max(0, 8 * -(-(position - 15) // 8))
        context = torch.tensor([ids[begin:position]])
        scores = predictor.outputs({"input_ids": context})["logits"][0, -1].log_softmax(-1)
        losses.append(-scores[ids[position]].item())
        best.append(int(scores.argmax()))
    for size in (1, 5, 32):
        built = build(directory, eval_batch_size=size)
        found = built.evaluate(predictor, tokenizer, progress=False)
        np.testing.assert_allclose(found.arrays["loss"], losses, rtol=1e-4, atol=1e-5)
        assert found.arrays["prediction"].tolist() == best
        assert built.metrics(found)["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    low, high = built.interval(found)
    assert low < np.exp(np.mean(losses)) < high
    assert built.agreement(found, found) == {"same": 1.0, "kl": pytest.approx(0, abs=1e-6)}
    assert found.arrays["logits"].shape == (sum(min(8, count) for count in found.arrays["count"]), len(tokenizer))


def test_perplexity_weights_tokens_and_not_windows() -> None:
    arrays = {"loss": np.array([1, 1, 1, 5], dtype=np.float32), "count": np.array([3, 1], dtype=np.int32)}
    assert task("language_modelling").metrics(Predictions(arrays))["perplexity"] == pytest.approx(np.exp(2))


def test_targets_shift_and_drop_padding(text: tuple[Path, list[str]]) -> None:
    built, tokenizer = build(text[0]), word_tokenizer(WORDS, framed=False)
    features = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8, 9], "labels": [8, 9]}]
    batch = built.collate(features, tokenizer)
    assert batch["labels"].tolist() == [[5, 6, 7], [8, 9, -100]]
    logits, labels = built.targets({"logits": torch.arange(6.0).reshape(2, 3, 1)}, batch)
    assert labels.tolist() == [6, 7, 9] and logits.flatten().tolist() == [0, 1, 3]


def test_training_windows_cover_the_text_once(text: tuple[Path, list[str]]) -> None:
    built, tokenizer = build(text[0], max_length=50, stride=25), word_tokenizer(WORDS, framed=False)
    features = built.features("train", tokenizer, GPT2Config(n_positions=16))
    assert [token for feature in features for token in feature["input_ids"]] == tokenizer.convert_tokens_to_ids(text[1])
    assert max(len(feature["input_ids"]) for feature in features) == 16
    evaluated = built.features("evaluation", tokenizer, GPT2Config(n_positions=16))
    assert [feature["labels"].count(-100) for feature in evaluated[:3]] == [1, 8, 8]


def test_pieces_join_to_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress_exp.tasks.language_modelling.PIECE", 10)
    texts = ["abcd", "", "efghijkl", "mnop", "q"]
    assert len(list(pieces(texts, "\n\n"))) > 1 and "".join(pieces(texts, "\n\n")) == "\n\n".join(texts)


def test_logits_are_kept_at_few_seeded_positions() -> None:
    kept = kept_positions([100] * 500)
    assert len(kept) == 64 and all(len(set(positions)) == 8 for positions in kept.values())
    assert kept == kept_positions([100] * 500)


def test_shares_of_running_text_are_runs(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"text": str(index)} for index in range(100)])
    built = task("language_modelling", data_dir=str(tmp_path), train_fraction=0.2)
    validation, train = ([int(row["text"]) for row in built.rows(split)] for split in ("validation", "train"))
    assert len(validation) == 10 and len(train) == 18 and not set(validation) & set(train)
    assert sum(after - before != 1 for before, after in zip(train, train[1:], strict=False)) <= 2


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"text": ""}] * 20)
    with pytest.raises(UserError, match="at least two"):
        task("language_modelling", data_dir=str(tmp_path)).features("train", word_tokenizer([]), BertConfig())
    with pytest.raises(UserError, match="stride"):
        build(tmp_path, stride=17)

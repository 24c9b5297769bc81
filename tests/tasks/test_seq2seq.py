from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import BartConfig, T5Config

from compress_exp.tasks.base import Predictions
from tests.tasks.helpers import task, word_tokenizer, write_jsonl

SOURCES = ["a b c d", "e f", "g"]
TARGETS = ["w x y z", "y x", "z"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    rows = [{"translation": {"en": en, "de": de}} for en, de in zip(SOURCES, TARGETS, strict=True)]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    return tmp_path


def tokenizer():
    return word_tokenizer([*SOURCES, *TARGETS, "translate English to German:"])


class Copier:
    """Generates its input, as a decoder would: a start token, then the text."""

    config = BartConfig(max_position_embeddings=64)

    def generate(self, batch: dict[str, torch.Tensor], max_new_tokens: int, num_beams: int) -> torch.Tensor:
        assert set(batch) == {"input_ids", "attention_mask"} and (max_new_tokens, num_beams) == (64, 4)
        return batch["input_ids"][:, : max_new_tokens + 1]


def test_the_prefix_is_for_t5_only(directory: Path) -> None:
    built = task("multi30k_en_de", data_dir=str(directory))
    words = tokenizer()
    plain = built.features("train", words, BartConfig())
    prefixed = built.features("train", words, T5Config())
    assert words.decode(plain[1]["input_ids"], skip_special_tokens=True) == "e f"
    assert words.decode(prefixed[1]["input_ids"], skip_special_tokens=True) == "translate English to German: e f"
    assert plain[1]["labels"] == prefixed[1]["labels"] == words("y x")["input_ids"]


def test_labels_are_padded_and_not_shifted(directory: Path) -> None:
    built, words = task("wmt14_en_de", data_dir=str(directory), max_target_length=5), tokenizer()
    batch = built.collate(built.features("train", words, BartConfig()), words)
    assert batch["labels"].shape == (3, 5) and batch["labels"][2].tolist()[3:] == [-100, -100]
    logits, labels = built.targets({"logits": torch.zeros(3, 5, 11)}, batch)
    assert labels.tolist() == batch["labels"][batch["labels"] != -100].tolist() and logits.shape == (len(labels), 11)


def test_texts_come_back_in_the_order_of_the_rows(directory: Path, tmp_path: Path) -> None:
    for size in (1, 2, 32):
        built = task("multi30k_en_de", data_dir=str(directory), eval_batch_size=size)
        found = built.evaluate(Copier(), tokenizer(), progress=False)
        assert found.texts == SOURCES
    found.save(tmp_path / "saved")
    assert Predictions.load(tmp_path / "saved").texts == SOURCES
    other = Predictions(found.arrays, ["a b c d", "other", "g"])
    assert built.agreement(other, found) == {"same": pytest.approx(2 / 3), "kl": None}


def test_bleu_is_sacrebleus_and_says_how() -> None:
    built = task("seq2seq")
    references = [row["target"] for row in built.rows("evaluation")]
    texts = [text.replace("ena", "ur") if index % 3 else text for index, text in enumerate(references)]
    found = Predictions({}, texts)
    expected = sacrebleu.corpus_bleu(texts, [references]).score
    assert built.metrics(found) == {"bleu": pytest.approx(expected)}
    low, high = built.interval(found)
    assert low < expected < high < 100
    assert built.metrics(Predictions({}, references))["bleu"] == pytest.approx(100)
    signature = built.metric_settings()["signature"]
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert built.evaluation_identity()["metrics"] == {"signature": signature}


def test_rouge_is_rouge_scores_with_sentences_on_lines(tmp_path: Path) -> None:
    own = ["The cats were running. A dog sleeps!", "Nothing else happened today."]
    references = ["A dog sleeps. The cat runs.", "Nothing happened."]
    rows = [{"article": "x", "highlights": text} for text in references]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    built = task("cnn_dailymail", data_dir=str(tmp_path))
    found = built.metrics(Predictions({}, own))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    lines = ["The cats were running.\nA dog sleeps!", "Nothing else happened today."]
    wanted = ["A dog sleeps.\nThe cat runs.", "Nothing happened."]
    scores = [scorer.score(target, text) for target, text in zip(wanted, lines, strict=True)]
    assert found == pytest.approx({n: 100 * np.mean([s[n].fmeasure for s in scores]) for n in scorer.rouge_types})
    assert found["rougeLsum"] > found["rougeL"] and built.primary == "rougeLsum"
    low, high = built.interval(Predictions({}, own))
    assert low <= found["rougeLsum"] <= high
    assert built.metric_settings()["stemmer"] is True and "sentence_split" in built.metric_settings()


def test_generation_settings_decide_the_evaluation_only() -> None:
    greedy, beams = task("seq2seq"), task("seq2seq", num_beams=4)
    assert greedy.identity() == beams.identity() and greedy.evaluation_identity() != beams.evaluation_identity()

"""ROUGE and BLEU of generated texts, by the libraries whose numbers are published; SQuAD's scores of short answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from compress_exp.tasks.formulas import Array

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def split_sentences(text: str) -> str:
    """One sentence per line, which is what ROUGE-Lsum compares; line breaks that are there stay."""
    return "\n".join(part for line in text.splitlines() for part in SENTENCE_END.split(line.strip()) if part)


def rouge(predictions: list[str], references: list[str]) -> dict[str, Array]:
    """F-measures in percent, one per example."""
    return _rouge(tuple(predictions), tuple(references))


@lru_cache(maxsize=2)
def _rouge(predictions: tuple[str, ...], references: tuple[str, ...]) -> dict[str, Array]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=True)
    pairs = zip(references, predictions, strict=True)
    scores = [scorer.score(split_sentences(target), split_sentences(own)) for target, own in pairs]
    return {name: np.array([100.0 * score[name].fmeasure for score in scores]) for name in ROUGE_TYPES}


def bleu(predictions: list[str], references: list[str]) -> float:
    """Corpus BLEU in percent, on detokenised text."""
    return float(_bleu().corpus_score(predictions, [references]).score)


def bleu_interval(predictions: list[str], references: list[str]) -> tuple[float, float]:
    """The 95 % interval of corpus BLEU over resampled sentences."""
    score = _bleu().corpus_score(predictions, [references], n_bootstrap=1000)
    return float(score._mean - score._ci), float(score._mean + score._ci)


def rouge_settings() -> dict[str, Any]:
    """What decides ROUGE."""
    return {"rouge_score": version("rouge_score"), "stemmer": True, "sentence_split": SENTENCE_END.pattern}


def bleu_settings() -> dict[str, Any]:
    """What decides BLEU, in sacreBLEU's own words."""
    scorer = _bleu()
    scorer.corpus_score(["a"], [["a"]])
    return {"signature": str(scorer.get_signature())}


def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU()


def squad(predictions: list[str], references: list[list[str]]) -> dict[str, Array]:
    """Exact match and F1 of words, in [0, 1], one per example: the best of its references (SQuAD's evaluation script).

    Case, punctuation, articles and white space do not count. An example without references, or whose references have no
    other words, is answered rightly by no words.
    """
    exact, f1 = [], []
    for prediction, given in zip(predictions, references, strict=True):
        own = answer_words(prediction)
        wanted = [words for reference in given if (words := answer_words(reference))] or [[]]
        exact.append(max(float(own == words) for words in wanted))
        f1.append(max(_words_f1(own, words) for words in wanted))
    return {"exact_match": np.array(exact), "f1": np.array(f1)}


def answer_words(text: str) -> list[str]:
    """The words of an answer that count."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def _words_f1(own: list[str], words: list[str]) -> float:
    if not own or not words:
        return float(own == words)
    shared = sum((Counter(own) & Counter(words)).values())
    return 2 * shared / (len(own) + len(words))

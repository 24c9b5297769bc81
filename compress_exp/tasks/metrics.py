"""Metrics as `evaluate.Metric` subclasses that need no network and write no files.

`evaluate.load` fetches a script from the hub, and `Metric` keeps its inputs in files below `HF_HOME` with a lock that
two processes wait for; these keep them in memory. The module imports evaluate: import it inside functions.
"""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from compress_exp.tasks import formulas, text_scores


class LocalMetric(evaluate.Metric):
    """A metric whose inputs stay in memory."""

    description = ""
    value = "float64"

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True, seed=0)

    def _build_data_dir(self) -> str:
        return ""

    def _info(self) -> evaluate.MetricInfo:
        features = {name: datasets.Value(self.value) for name in ("predictions", "references")}
        return evaluate.MetricInfo(
            description=self.description, citation="", inputs_description="", features=datasets.Features(features)
        )


class Accuracy(LocalMetric):
    """Share of predictions that equal their reference."""

    value = "int64"

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": float(formulas.accuracy(np.array(predictions), np.array(references)))}


class F1(LocalMetric):
    """F1 of class 1 for two classes, macro F1 for more."""

    value = "int64"

    def _compute(self, predictions: list[int], references: list[int], classes: int = 2) -> dict[str, float]:
        return {"f1": float(formulas.f1(np.array(predictions), np.array(references), classes))}


class Matthews(LocalMetric):
    """Matthews correlation coefficient."""

    value = "int64"

    def _compute(self, predictions: list[int], references: list[int], classes: int = 2) -> dict[str, float]:
        return {"matthews": float(formulas.matthews(np.array(predictions), np.array(references), classes))}


class Pearson(LocalMetric):
    """Pearson correlation of predicted and given numbers."""

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"pearson": float(formulas.pearson(np.array(predictions), np.array(references)))}


class Spearman(LocalMetric):
    """Spearman rank correlation of predicted and given numbers."""

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"spearman": float(formulas.spearman(np.array(predictions), np.array(references)))}


class Perplexity(LocalMetric):
    """Token-weighted perplexity; predictions are sums of losses (nats) per window, references the tokens scored."""

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"perplexity": float(formulas.perplexity(np.array(predictions), np.array(references)))}


class Bleu(LocalMetric):
    """Corpus BLEU of sacreBLEU, in percent, on detokenised text."""

    value = "string"

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"bleu": text_scores.bleu(list(predictions), list(references))}


class Rouge(LocalMetric):
    """Mean F-measures of ROUGE-1, -2, -L and -Lsum, in percent, with the Porter stemmer, over sentences per line."""

    value = "string"

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        scores = text_scores.rouge(list(predictions), list(references))
        return {name: float(values.mean()) for name, values in scores.items()}


class Squad(LocalMetric):
    """Exact match and F1 of short answers, the best of several references each."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=datasets.Features(features)
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        scores = text_scores.squad(list(predictions), list(references))
        return {name: float(values.mean()) for name, values in scores.items()}


METRICS: dict[str, type[LocalMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews": Matthews,
    "pearson": Pearson,
    "spearman": Spearman,
    "bleu": Bleu,
    "rouge": Rouge,
    "squad": Squad,
}

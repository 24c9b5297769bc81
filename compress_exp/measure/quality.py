"""Quality: predictions of a loaded model, made once per artifact, runtime and evaluation, beside the baseline's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exp.store import Store
from compress_exp.tasks.base import Predictions, Predictor, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Evaluation:
    """What one model predicted, and what that is worth."""

    predictions: Predictions
    metrics: dict[str, float]
    interval: tuple[float, float]


def evaluate(
    store: Store,
    recipe: dict[str, Any],
    task: Task,
    predictor: Callable[[], Predictor],
    tokenizer: PreTrainedTokenizerBase,
    progress: bool,
    newer_than: float = 0.0,
) -> Evaluation:
    """The evaluation of a recipe, from the cache or made now.

    Args:
        store: where evaluations are kept.
        recipe: names the artifact, the runtime and the evaluation.
        task: what is evaluated.
        predictor: gives the model in its runtime, if it is needed.
        tokenizer: the model's.
        progress: whether a bar is shown.
        newer_than: make it again if it was finished before this time.
    """

    def build(directory: Path, check: Callable[[], None]) -> dict[str, Any]:
        predictions = task.evaluate(predictor(), tokenizer, progress)
        predictions.save(directory)
        numbers = {"metrics": task.metrics(predictions), "interval": list(task.interval(predictions))}
        (directory / "evaluation.json").write_text(json.dumps(numbers))
        return {}

    directory = store.get(recipe, build, "evaluation", newer_than)
    numbers = json.loads((directory / "evaluation.json").read_text())
    low, high = numbers["interval"]
    return Evaluation(Predictions.load(directory), numbers["metrics"], (low, high))


def retained(value: float, baseline: float, higher_is_better: bool) -> float | None:
    """The share of the baseline's quality that is left; inverted where lower is better, None where it means nothing."""
    if baseline <= 0 or (not higher_is_better and value <= 0):
        return None
    return value / baseline if higher_is_better else baseline / value


def quality(task: Task, own: Evaluation, baseline: Evaluation) -> dict[str, Any]:
    """The quality block of the record."""
    name = task.primary
    return {
        "primary": {"name": name, "value": own.metrics[name], "higher_is_better": task.higher_is_better},
        "metrics": own.metrics,
        "baseline": baseline.metrics,
        "retained": retained(own.metrics[name], baseline.metrics[name], task.higher_is_better),
        "interval": list(own.interval),
        "baseline_interval": list(baseline.interval),
        "agreement": task.agreement(own.predictions, baseline.predictions),
        "rows": len(task.rows("evaluation")),
        "split": task.evaluated,
        "settings": task.evaluation_identity(),
    }

"""Quality: predictions of a loaded model, made once per artifact, runtime and evaluation, beside the baseline's.

Outputs that are not finite are no predictions and end the measurement. A metric may be undefined all the same (the
correlation of a constant answer), or larger than any number (the perplexity of a destroyed model): it is None then, and
nothing is derived from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exp.models.finite import finite_outputs
from compress_exp.outputs.files import finite
from compress_exp.outputs.store import Store
from compress_exp.tasks.base import Predictions, Predictor, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Evaluation:
    """What one model predicted, and what that is worth; None where that is no finite number."""

    predictions: Predictions
    metrics: dict[str, float | None]
    interval: tuple[float | None, float | None]


class FinitePredictor:
    """A model whose outputs are looked at, so that no task takes NaN for an answer.

    Args:
        predictor: a model in its runtime.
        what: is said to have given the outputs.
    """

    def __init__(self, predictor: Predictor, what: str) -> None:
        self.predictor, self.what = predictor, what

    @property
    def config(self) -> Any:
        """The transformers configuration of the model."""
        return self.predictor.config

    def outputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's outputs for a collated batch.

        Raises:
            UserError: they are not finite.
        """
        return {name: finite_outputs(tensor, self.what) for name, tensor in self.predictor.outputs(batch).items()}

    def generate(self, batch: dict[str, Tensor], max_new_tokens: int, num_beams: int) -> Tensor:
        """Generated token ids; the logits that they were chosen by are computed once more, all at once.

        Raises:
            UserError: they are not finite.
        """
        import torch

        ids = self.predictor.generate(batch, max_new_tokens, num_beams)
        if self.config.is_encoder_decoder:
            self.outputs({**batch, "decoder_input_ids": ids})
        else:
            mask = batch["attention_mask"]
            new = mask.new_ones(len(ids), ids.shape[1] - mask.shape[1])
            self.outputs({"input_ids": ids, "attention_mask": torch.cat([mask, new], dim=1)})
        return ids


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
        what = f"artifact {recipe['artifact']} in {recipe['runtime']['runtime']}"
        predictions = task.evaluate(FinitePredictor(predictor(), what), tokenizer, progress)
        predictions.save(directory)
        numbers = finite({"metrics": task.metrics(predictions), "interval": task.interval(predictions)})
        (directory / "evaluation.json").write_text(json.dumps(numbers, allow_nan=False))
        return {}

    directory = store.get(recipe, build, "evaluation", newer_than)
    numbers = json.loads((directory / "evaluation.json").read_text())
    low, high = numbers["interval"]
    return Evaluation(Predictions.load(directory), numbers["metrics"], (low, high))


def retained(value: float | None, baseline: float | None, higher_is_better: bool) -> float | None:
    """The share of the baseline's quality that is left; inverted where lower is better, None where it means nothing."""
    if value is None or baseline is None or baseline <= 0 or (not higher_is_better and value <= 0):
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
        "agreement": finite(task.agreement(own.predictions, baseline.predictions)),
        "rows": len(task.rows("evaluation")),
        "split": task.evaluated,
        "settings": task.evaluation_identity(),
    }


def undefined(quality: Mapping[str, Any]) -> list[str]:
    """Flags: which metrics of the record's quality block are no finite number."""
    models = {"the artifact": quality["metrics"], "the dense model": quality["baseline"]}
    missing = {who: [name for name, value in metrics.items() if value is None] for who, metrics in models.items()}
    return [
        f"undefined: {' and '.join(names)} of {who} (a constant answer, or too large for a number)"
        for who, names in missing.items()
        if names
    ]

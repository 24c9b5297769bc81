"""Causal language modelling: running text in windows, and its perplexity."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy

from compress_exp.config.checks import UserError, check_number
from compress_exp.tasks import formulas
from compress_exp.tasks.base import IGNORED, Predictions, Predictor, Task
from compress_exp.tasks.features import fitting_length, length_batches, mean_kl, track
from compress_exp.tasks.files import Row
from compress_exp.tasks.formulas import Array

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

KEPT_WINDOWS, KEPT_POSITIONS = 64, 8
PIECE = 10_000_000


@dataclass(frozen=True, kw_only=True)
class LanguageModelling(Task):
    """The next token of running text.

    Attributes:
        stride: tokens between the starts of evaluated windows of `max_length` tokens. Below `max_length` every token
            but the first of the text is scored once, with at least `max_length - stride` tokens before it; at
            `max_length` the first token of each window has no context and is not scored.
        join: what stands between rows.
    """

    stride: int
    join: str = "\n\n"

    origin: ClassVar[str] = "language_modelling"
    kind: ClassVar[str] = "language_modelling"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    model_kinds: ClassVar[tuple[str, ...]] = ("decoder",)
    embedded: ClassVar[str] = "prose"
    text_roles: ClassVar[tuple[str, ...]] = ("text",)
    running_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("stride", self.stride, 1, self.max_length)

    @property
    def primary(self) -> str:
        """Perplexity per token."""
        return "perplexity"

    @property
    def higher_is_better(self) -> bool:
        """Less perplexity is better."""
        return False

    def config_overrides(self) -> dict[str, Any]:
        """The vocabulary is the tokenizer's; the task decides nothing."""
        return {}

    def features(self, split: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[Row]:
        """Windows: side by side for training, with the stride (what is already scored masked) for evaluation."""
        ids = self._token_ids(split, tokenizer)
        length = fitting_length(self.max_length, config)
        stride = length if split == "train" else max(1, self.stride * length // self.max_length)
        features = [
            {"input_ids": ids[begin:end], "labels": [IGNORED] * (first - begin) + ids[first:end]}
            for begin, end, first in windows(len(ids), length, stride)
        ]
        if not features:
            raise UserError(f"task: the {split} text has {len(ids)} tokens, at least two are needed")
        return features

    def classes_of(self, config: PreTrainedConfig) -> int:
        """The vocabulary."""
        return int(config.vocab_size)

    def targets(self, outputs: Mapping[str, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Each position predicts the next token."""
        labels = batch["labels"][:, 1:]
        scored = labels != IGNORED
        return outputs["logits"][:, :-1][scored], labels[scored]

    def evaluate(self, predictor: Predictor, tokenizer: PreTrainedTokenizerBase, progress: bool) -> Predictions:
        """Per scored token `loss` and `prediction`, per window the number of tokens (`count`), some `logits`.

        Logits of 64 seeded windows at 8 seeded positions each are kept: all positions of a large vocabulary would
        take gigabytes.
        """
        features = self.features("evaluation", tokenizer, predictor.config)
        kept = kept_positions([sum(label != IGNORED for label in feature["labels"][1:]) for feature in features])
        losses, guesses, logits = ([np.empty(0)] * len(features) for _ in range(3))
        for indices in track(length_batches(features, self.eval_batch_size), "evaluate", progress):
            batch = self.collate([features[index] for index in indices], tokenizer)
            outputs = predictor.outputs(batch)["logits"]
            for row, index in enumerate(indices):
                alone = {"logits": outputs[row : row + 1]}, {"labels": batch["labels"][row : row + 1]}
                own, labels = self.targets(*alone)
                losses[index] = cross_entropy(own, labels, reduction="none").numpy()
                guesses[index] = own.argmax(-1).numpy().astype(np.int32)
                if index in kept:
                    logits[index] = own[kept[index]].numpy()
        arrays: dict[str, Array] = {
            "loss": np.concatenate(losses).astype(np.float32),
            "prediction": np.concatenate(guesses),
            "count": np.array([len(loss) for loss in losses], dtype=np.int32),
            "logits": np.concatenate([logits[index] for index in sorted(kept)]).astype(np.float32),
        }
        return Predictions(arrays)

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Perplexity."""
        from compress_exp.tasks.metrics import Perplexity

        losses, counts = _window_sums(predictions)
        value: dict[str, float] = Perplexity().compute(predictions=losses, references=counts)
        return value

    def interval(self, predictions: Predictions) -> tuple[float, float]:
        """A bootstrap over windows, since neighbouring tokens depend on each other."""
        return formulas.bootstrap_interval(formulas.perplexity, *_window_sums(predictions))

    def agreement(self, own: Predictions, baseline: Predictions) -> dict[str, float | None]:
        """Equal most likely tokens, and KL at the kept positions; None between different vocabularies."""
        if own.arrays["logits"].shape != baseline.arrays["logits"].shape:
            return {"same": None, "kl": None}
        same = float(np.mean(own.arrays["prediction"] == baseline.arrays["prediction"]))
        return {"same": same, "kl": mean_kl(baseline.arrays["logits"], own.arrays["logits"])}

    def metric_settings(self) -> dict[str, Any]:
        """Perplexities compare at equal windows, strides and joins only."""
        return {"window": self.max_length, "stride": self.stride, "join": self.join, "per": "token"}

    def _token_ids(self, split: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        ids: list[int] = []
        for piece in pieces([row["text"] for row in self.rows(split)], self.join):
            encoded = tokenizer(piece, add_special_tokens=False, return_attention_mask=False, verbose=False)
            ids += encoded["input_ids"]
        return ids

    def _examples(self, rows: list[Row], where: str) -> list[Row]:
        return self._select(rows, where)

    def _feature_identity(self) -> dict[str, Any]:
        return {"join": self.join}

    def _evaluation_settings(self) -> dict[str, Any]:
        return {}


def windows(count: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Begin, end and first scored position of each window over `count` tokens; windows without one are left out."""
    begin, scored = 0, 0
    while scored < count:
        end = min(begin + length, count)
        first = max(scored, begin + 1)
        if first < end:
            yield begin, end, first
        begin, scored = begin + stride, end


def pieces(texts: list[str], join: str) -> Iterator[str]:
    """The joined text, in pieces of some megabytes: a tokenizer holds its whole input several times."""
    start, size = 0, 0
    for index, text in enumerate(texts):
        size += len(text)
        if size > PIECE or index == len(texts) - 1:
            yield join.join(texts[start : index + 1]) + (join if index < len(texts) - 1 else "")
            start, size = index + 1, 0


def kept_positions(counts: list[int]) -> dict[int, list[int]]:
    """Seeded windows and, in each, seeded scored positions at which logits are kept."""
    generator = random.Random("kept logits")
    chosen = sorted(generator.sample(range(len(counts)), min(KEPT_WINDOWS, len(counts))))
    return {
        index: sorted(generator.sample(range(counts[index]), min(KEPT_POSITIONS, counts[index]))) for index in chosen
    }


def _window_sums(predictions: Predictions) -> tuple[Array, Array]:
    counts = predictions.arrays["count"]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.add.reduceat(predictions.arrays["loss"].astype(np.float64), starts), counts.astype(np.float64)

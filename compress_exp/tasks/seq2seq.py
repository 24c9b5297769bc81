"""Sequence to sequence: translation and summarization, evaluated by what is generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from compress_exp.config.checks import check_choice, check_number
from compress_exp.models.families.base import family_of
from compress_exp.tasks import formulas, text_scores
from compress_exp.tasks.base import FRAME, IGNORED, Predictions, Predictor, Task
from compress_exp.tasks.features import fitting_length, length_batches, track
from compress_exp.tasks.files import Row

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Seq2Seq(Task):
    """One text to another.

    Attributes:
        metric: "bleu" (translation) or "rouge" (summarization, ROUGE-Lsum being the primary one).
        max_target_length: the longest target in tokens, in training.
        max_new_tokens: the longest text that is generated.
        num_beams: beams of the search; 1 is greedy.
        prefix: put before each source for T5 models, which know their task by it.
    """

    metric: str
    max_target_length: int
    max_new_tokens: int
    num_beams: int = 1
    prefix: str = ""

    origin: ClassVar[str] = "seq2seq"
    kind: ClassVar[str] = "seq2seq"
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    model_kinds: ClassVar[tuple[str, ...]] = ("encoder_decoder",)
    embedded: ClassVar[str] = "translation"
    text_roles: ClassVar[tuple[str, ...]] = ("source", "target")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric", self.metric, ("bleu", "rouge"))
        check_number("max_target_length", self.max_target_length, 2)
        check_number("max_new_tokens", self.max_new_tokens, 1)
        check_number("num_beams", self.num_beams, 1)

    @property
    def primary(self) -> str:
        """BLEU, or ROUGE-Lsum, which papers on summarization print as ROUGE-L."""
        return "bleu" if self.metric == "bleu" else "rougeLsum"

    def positions(self) -> int:
        """Those of the targets."""
        lengths = (len(row["target"].encode()) + FRAME for row in self.rows("train"))
        return sum(min(length, self.max_target_length) for length in lengths)

    def config_overrides(self) -> dict[str, Any]:
        """The vocabulary is the tokenizer's; the task decides nothing."""
        return {}

    def features(self, split: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[Row]:
        """Token ids of the source and, as labels, of the target; models derive decoder inputs from labels."""
        rows = self.rows(split)
        prefix = self.prefix if family_of(config.model_type).prefixed else ""
        sources = tokenizer(
            [prefix + row["source"] for row in rows],
            truncation=True,
            max_length=fitting_length(self.max_length, config),
            return_attention_mask=False,
        )
        targets = tokenizer(
            text_target=[row["target"] for row in rows],
            truncation=True,
            max_length=fitting_length(self.max_target_length, config),
            return_attention_mask=False,
        )
        pairs = zip(sources["input_ids"], targets["input_ids"], strict=True)
        return [{"input_ids": source, "labels": target} for source, target in pairs]

    def classes_of(self, config: PreTrainedConfig) -> int:
        """The vocabulary."""
        return int(config.vocab_size)

    def targets(self, outputs: Mapping[str, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Every position of the target."""
        scored = batch["labels"] != IGNORED
        return outputs["logits"][scored], batch["labels"][scored]

    def evaluate(self, predictor: Predictor, tokenizer: PreTrainedTokenizerBase, progress: bool) -> Predictions:
        """The generated texts."""
        features = self.features("evaluation", tokenizer, predictor.config)
        inputs = [{"input_ids": feature["input_ids"]} for feature in features]
        texts = [""] * len(inputs)
        for indices in track(length_batches(inputs, self.eval_batch_size), "evaluate", progress):
            batch = self.collate([inputs[index] for index in indices], tokenizer)
            generated = predictor.generate(batch, self.max_new_tokens, self.num_beams)
            decoded = tokenizer.batch_decode(generated, skip_special_tokens=True)
            for index, text in zip(indices, decoded, strict=True):
                texts[index] = text.strip()
        return Predictions({"characters": np.array([len(text) for text in texts], dtype=np.int32)}, texts)

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """BLEU, or ROUGE-1, -2, -L and -Lsum; in percent."""
        from compress_exp.tasks.metrics import METRICS

        texts, references = self._texts(predictions)
        values: dict[str, float] = METRICS[self.metric]().compute(predictions=texts, references=references)
        return values

    def interval(self, predictions: Predictions) -> tuple[float, float]:
        """A bootstrap over examples."""
        texts, references = self._texts(predictions)
        if self.metric == "bleu":
            return text_scores.bleu_interval(texts, references)
        scores = text_scores.rouge(texts, references)[self.primary]
        return formulas.bootstrap_interval(lambda values: values.mean(axis=-1), scores)

    def agreement(self, own: Predictions, baseline: Predictions) -> dict[str, float | None]:
        """Equal texts; no logits are kept."""
        pairs = zip(own.texts or [], baseline.texts or [], strict=True)
        return {"same": float(np.mean([text == other for text, other in pairs])), "kl": None}

    def metric_settings(self) -> dict[str, Any]:
        """sacreBLEU's signature, or how ROUGE stems and splits."""
        return text_scores.bleu_settings() if self.metric == "bleu" else text_scores.rouge_settings()

    def _texts(self, predictions: Predictions) -> tuple[list[str], list[str]]:
        return predictions.texts or [], [row["target"] for row in self.rows("evaluation")]

    def _examples(self, rows: list[Row], where: str) -> list[Row]:
        return self._select(rows, where)

    def _feature_identity(self) -> dict[str, Any]:
        return {"max_target_length": self.max_target_length, "prefix": self.prefix}

    def _evaluation_settings(self) -> dict[str, Any]:
        return {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams}

"""Extractive question answering: the span of a context that answers a question (SQuAD: Rajpurkar et al. 2016,
arXiv:1606.05250, and 2018, arXiv:1806.03822).

A long context is read in windows that overlap. A window without the answer points at its first token, which also stands
for "there is no answer". Training sees two positions of each window, its start and its end, over the window's tokens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from compress_exp.config.checks import UserError, check_number
from compress_exp.models.forward import LABELS
from compress_exp.tasks import formulas, text_scores
from compress_exp.tasks.base import IGNORED, Predictions, Predictor, Task
from compress_exp.tasks.features import fitting_length, length_batches, mean_kl, track
from compress_exp.tasks.files import Row
from compress_exp.tasks.spans import NOWHERE, Span, best_span, tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

NEVER = -1e4  # as a logit: e to it is 0 in every type, half precision included, and differences of it are finite
KEPT_WINDOWS = 128
TOGETHER = 256  # rows in one call of the tokenizer, which keeps more of each than is needed
INPUTS = ("input_ids", "token_type_ids")


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Task):
    """A question and a context to a span of the context.

    Attributes:
        doc_stride: tokens of the context that neighbouring windows share.
        max_question_length: a longer question is cut after that many tokens.
        max_answer_length: the longest answer in tokens.
        n_best: starts, and ends, of each window that are considered.
        null_answers: rows may have no answer, which the model may say (SQuAD 2.0).
    """

    doc_stride: int
    max_question_length: int
    max_answer_length: int
    n_best: int = 20
    null_answers: bool = False

    origin: ClassVar[str] = "question_answering"
    kind: ClassVar[str] = "question_answering"
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    model_kinds: ClassVar[tuple[str, ...]] = ("encoder",)
    outputs: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")
    embedded: ClassVar[str] = "questions"
    text_roles: ClassVar[tuple[str, ...]] = ("question", "context")
    other_roles: ClassVar[tuple[str, ...]] = ("answers", "answer_starts")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("max_question_length", self.max_question_length, 1, self.max_length // 2)
        check_number("doc_stride", self.doc_stride, 0, (self.max_length - self.max_question_length) // 2)
        check_number("max_answer_length", self.max_answer_length, 1)
        check_number("n_best", self.n_best, 1)

    @property
    def primary(self) -> str:
        """F1 of the words of the answer."""
        return "f1"

    def config_overrides(self) -> dict[str, Any]:
        """Two values for each token: start and end."""
        return {"num_labels": 2}

    def classes_of(self, config: PreTrainedConfig) -> None:
        """None: the classes are the tokens of the input."""

    def features(self, split: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[Row]:
        """The windows of each row, in order.

        Beside the token ids, `row` is the number of the example, `labels_start` and `labels_end` are tokens, and
        `labels_context` is 1 where an answer may be, -100 elsewhere. Where answers are evaluated, `offsets` holds the
        characters (begin, end) of the context's tokens, None for others, and `null` the token that stands for none.
        """
        rows, length = self.rows(split), fitting_length(self.max_length, config)
        room = length - tokenizer.num_special_tokens_to_add(pair=True)
        limit = min(self.max_question_length, room // 2)
        features = []
        for first in range(0, len(rows), TOGETHER):
            part = rows[first : first + TOGETHER]
            encoded = tokenizer(
                _cut([row["question"] for row in part], limit, tokenizer),
                [row["context"] for row in part],
                truncation="only_second",
                max_length=length,
                stride=min(self.doc_stride, (room - limit) // 2),
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
            for window, number in enumerate(encoded["overflow_to_sample_mapping"]):
                ids = encoded["input_ids"][window]
                context = [sequence == 1 for sequence in encoded.sequence_ids(window)]
                spans = zip(encoded["offset_mapping"][window], context, strict=True)
                offsets = [span if inside else None for span, inside in spans]
                null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
                start, end = tokens_of(_first(part[number]), offsets) or (null, null)
                feature = {name: encoded[name][window] for name in INPUTS if name in encoded}
                feature |= {"row": first + number, "labels_start": start, "labels_end": end}
                feature["labels_context"] = [1 if inside else IGNORED for inside in context]
                feature["labels_context"][null] = 1
                features.append(feature if split == "train" else feature | {"offsets": offsets, "null": null})
        return features

    def collate(self, features: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
        """Pad what models and losses read."""
        read = [
            {name: value for name, value in feature.items() if name in INPUTS or name.startswith(LABELS)}
            for feature in features
        ]
        return super().collate(read, tokenizer)

    def targets(self, outputs: Mapping[str, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """All starts and then all ends of the windows: (2 · windows, length), tokens that are no answer at NEVER."""
        nowhere = batch["labels_context"] == IGNORED
        logits = torch.cat([outputs[name].masked_fill(nowhere, NEVER) for name in self.outputs])
        return logits, torch.cat([batch["labels_start"], batch["labels_end"]])

    def evaluate(self, predictor: Predictor, tokenizer: PreTrainedTokenizerBase, progress: bool) -> Predictions:
        """The answers as texts; arrays: `span` (rows, 2) in characters, -1 for none, and `logits` of some windows.

        Logits of 128 seeded windows (2 · windows, length) are kept, with the `place` of each token in its context: all
        of them would take megabytes for every run.
        """
        features, rows = self.features("evaluation", tokenizer, predictor.config), self.rows("evaluation")
        kept = random.Random("kept logits").sample(range(len(features)), min(KEPT_WINDOWS, len(features)))
        width = max(len(features[index]["input_ids"]) for index in kept)
        logits = {index: np.full((2, width), NEVER, dtype=np.float32) for index in sorted(kept)}
        best = [(-np.inf, NOWHERE)] * len(rows)
        null = np.full(len(rows), np.inf)
        for indices in track(length_batches(features, self.eval_batch_size), "evaluate", progress):
            batch = self.collate([features[index] for index in indices], tokenizer)
            given, _ = self.targets(predictor.outputs(batch), batch)
            windows = given.double().numpy().reshape(2, len(indices), -1).swapaxes(0, 1)
            for index, (starts, ends) in zip(indices, windows, strict=True):
                feature = features[index]
                number, offsets, none = feature["row"], feature["offsets"], feature["null"]
                limits = self.max_answer_length, self.n_best
                found = best_span(starts, ends, offsets, rows[number]["context"], *limits)
                # Equal scores are told apart by the place, so that the order of batches decides nothing.
                best[number] = max(best[number], found, key=lambda one: (one[0], -one[1][0], -one[1][1]))
                null[number] = min(null[number], starts[none] + ends[none])
                if index in logits:
                    logits[index][:, : len(offsets)] = np.stack([starts, ends])[:, : len(offsets)]
        spans = [
            NOWHERE if self.null_answers and none > score else span
            for (score, span), none in zip(best, null, strict=True)
        ]
        place = np.full((len(logits), width), -1, dtype=np.int32)
        for line, index in zip(place, logits, strict=True):
            begins = [-1 if span is None else span[0] for span in features[index]["offsets"]]
            line[: len(begins)] = begins
        arrays = {"span": np.array(spans, dtype=np.int32), "logits": np.concatenate(list(logits.values()))}
        texts = [row["context"][max(begin, 0) : max(end, 0)] for row, (begin, end) in zip(rows, spans, strict=True)]
        return Predictions(arrays | {"place": place}, texts)

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Exact match and F1, on [0, 1]."""
        from compress_exp.tasks.metrics import METRICS

        texts, references = self._texts(predictions)
        values: dict[str, float] = METRICS["squad"]().compute(predictions=texts, references=references)
        return values

    def interval(self, predictions: Predictions) -> tuple[float, float]:
        """A bootstrap over examples."""
        scores = text_scores.squad(*self._texts(predictions))["f1"]
        return formulas.bootstrap_interval(lambda values: values.mean(axis=-1), scores)

    def agreement(self, own: Predictions, baseline: Predictions) -> dict[str, float | None]:
        """Equal answers, and KL over the tokens of the kept windows; None between different tokenizers."""
        same = float(np.mean([one == other for one, other in zip(own.texts or [], baseline.texts or [], strict=True)]))
        alike = np.array_equal(own.arrays["place"], baseline.arrays["place"])
        return {"same": same, "kl": mean_kl(baseline.arrays["logits"], own.arrays["logits"]) if alike else None}

    def metric_settings(self) -> dict[str, Any]:
        """SQuAD's rules for equal words; its script prints per cent."""
        return {"words": "squad", "scale": "share"}

    def _texts(self, predictions: Predictions) -> tuple[list[str], list[list[str]]]:
        return predictions.texts or [], [row["answers"] for row in self.rows("evaluation")]

    def _examples(self, rows: list[Row], where: str) -> list[Row]:
        examples = self._select(rows, where)
        for number, example in enumerate(examples, 1):
            self._check_answers(example, f"{where}, row {number}")
        return examples

    def _check_answers(self, example: Row, place: str) -> None:
        """One answer may stand without a list; each must stand in the context where it says."""
        texts, starts = (_listed(example[role]) for role in self.other_roles)
        # A csv file holds texts only.
        starts = [int(start) if isinstance(start, str) and start.isdecimal() else start for start in starts]
        for role, values, kind, needed in (
            ("answers", texts, str, "texts are"),
            ("answer_starts", starts, int, "numbers of characters are"),
        ):
            if not all(isinstance(value, kind) and not isinstance(value, bool) for value in values):
                raise UserError(f"task.columns.{role}: {place} holds {example[role]!r:.60}, {needed} needed")
        if len(texts) != len(starts):
            raise UserError(f"task.columns.answer_starts: {place} has {len(texts)} answers and {len(starts)} starts")
        if not texts and not self.null_answers:
            raise UserError(f"task.columns.answers: {place} has no answer; task.null_answers=true allows that")
        for text, start in zip(texts, starts, strict=True):
            if start < 0 or not text.strip() or example["context"][start : start + len(text)] != text:
                raise UserError(
                    f"task.columns.answer_starts: {place}: the context has no {text!r:.60} at character {start}; "
                    "count characters from 0"
                )
        example["answers"], example["answer_starts"] = texts, starts

    def _feature_identity(self) -> dict[str, Any]:
        return {"doc_stride": self.doc_stride, "max_question_length": self.max_question_length}

    def _evaluation_settings(self) -> dict[str, Any]:
        return {
            "max_answer_length": self.max_answer_length,
            "n_best": self.n_best,
            "null_answers": self.null_answers,
        }


def _cut(questions: list[str], limit: int, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The beginnings of questions that take so many tokens."""
    encoded = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        question[: offsets[limit - 1][1]] if len(offsets) > limit else question
        for question, offsets in zip(questions, encoded["offset_mapping"], strict=True)
    ]


def _first(row: Row) -> Span:
    """The characters of the first given answer, the one to learn."""
    if not row["answers"]:
        return NOWHERE
    begin = row["answer_starts"][0]
    return begin, begin + len(row["answers"][0])


def _listed(value: Any) -> list[Any]:
    """Several values, one, or none."""
    return list(value) if isinstance(value, list) else [] if value in (None, "") else [value]

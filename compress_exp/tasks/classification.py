"""Classification of one text or a pair of texts, and regression to one number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from compress_exp.config.checks import FieldError, UserError, check_choice
from compress_exp.tasks import formulas
from compress_exp.tasks.base import Predictions, Predictor, Task
from compress_exp.tasks.data import check_column, lookup
from compress_exp.tasks.features import fitting_length, length_batches, mean_kl, track
from compress_exp.tasks.files import Row
from compress_exp.tasks.formulas import Array

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

CLASS_METRICS = ("accuracy", "f1", "matthews")
NUMBER_METRICS = ("spearman", "pearson")


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Texts or pairs of texts to classes, or to a number.

    Attributes:
        classes: names in the order of their ids; null reads them off the training labels, sorted.
        regression: the label is a number.
        metric_names: what is computed, the primary metric first; null chooses by `regression`.
    """

    classes: list[str] | None = None
    regression: bool = False
    metric_names: list[str] | None = None

    origin: ClassVar[str] = "classification"
    kind: ClassVar[str] = "classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    model_kinds: ClassVar[tuple[str, ...]] = ("encoder",)
    embedded: ClassVar[str] = "reviews"
    text_roles: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    other_roles: ClassVar[tuple[str, ...]] = ("label",)
    optional_roles: ClassVar[tuple[str, ...]] = ("text_pair",)
    by_row: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.metric_names or ():
            check_choice("metric_names", name, NUMBER_METRICS if self.regression else CLASS_METRICS)
        if self.metric_names == []:
            raise FieldError("metric_names", "at least one metric is needed")
        if self.classes is not None and (self.regression or len(set(self.classes)) < max(2, len(self.classes))):
            wrong = "regression has no classes" if self.regression else "two or more different names are needed"
            raise FieldError("classes", f"{self.classes!r} is not allowed, {wrong}")

    @property
    def primary(self) -> str:
        """The first of the metrics."""
        return self._metric_names[0]

    @cached_property
    def class_names(self) -> list[str]:
        """Names in the order of their ids; empty for regression."""
        if self.regression:
            return []
        if self.classes is not None:
            return [str(name) for name in self.classes]
        column, where, rows = self.columns["label"], self.source.where("train"), self.source.take("train", None)
        check_column(rows, "label", column, where)
        labels = {_label_text(label) for row in rows if (label := _value(row, column)) is not None}
        return derive_classes(labels - {""}, where)

    def positions(self) -> int:
        """One of each row."""
        return len(self.rows("train"))

    def config_overrides(self) -> dict[str, Any]:
        """The number and the names of the outputs."""
        if self.regression:
            return {"num_labels": 1, "problem_type": "regression"}
        names = dict(enumerate(self.class_names))
        return {
            "num_labels": len(names),
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
            "problem_type": "single_label_classification",
        }

    def features(self, split: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[Row]:
        """Token ids (with token types where the tokenizer gives them) and the label."""
        rows = self.rows(split)
        pairs = [row["text_pair"] for row in rows] if "text_pair" in rows[0] else None
        encoded = tokenizer(
            [row["text"] for row in rows],
            pairs,
            truncation=True,
            max_length=fitting_length(self.max_length, config),
            return_attention_mask=False,
        )
        names = list(encoded)
        columns = zip(*(encoded[name] for name in names), strict=True)
        return [
            {**dict(zip(names, values, strict=True)), "labels": row["label"]}
            for row, values in zip(rows, columns, strict=True)
        ]

    def classes_of(self, config: PreTrainedConfig) -> int | None:
        """The labels."""
        return config.num_labels

    def targets(self, outputs: Mapping[str, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Every row counts."""
        return outputs["logits"], batch["labels"]

    def evaluate(self, predictor: Predictor, tokenizer: PreTrainedTokenizerBase, progress: bool) -> Predictions:
        """Arrays: `logits` (N, classes), `labels` (N,)."""
        features = self.features("evaluation", tokenizer, predictor.config)
        outputs: list[Array] = [np.empty(0)] * len(features)
        for indices in track(length_batches(features, self.eval_batch_size), "evaluate", progress):
            logits = predictor.outputs(self.collate([features[index] for index in indices], tokenizer))["logits"]
            for index, row in zip(indices, logits.numpy(), strict=True):
                outputs[index] = row
        labels = np.array([feature["labels"] for feature in features])
        return Predictions({"logits": np.stack(outputs).astype(np.float32), "labels": labels})

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """The metrics of `metric_names`."""
        from compress_exp.tasks.metrics import METRICS

        guesses, labels = self._guesses(predictions), predictions.arrays["labels"]
        values: dict[str, float] = {}
        for name in self._metric_names:
            options = {} if name in ("accuracy", *NUMBER_METRICS) else {"classes": len(self.class_names)}
            values |= METRICS[name]().compute(predictions=guesses, references=labels, **options)
        return values

    def interval(self, predictions: Predictions) -> tuple[float, float]:
        """Binomial for accuracy, else a bootstrap over examples."""
        guesses, labels = self._guesses(predictions), predictions.arrays["labels"]
        if self.primary == "accuracy":
            return formulas.binomial_interval(int((guesses == labels).sum()), len(labels))
        statistics: dict[str, Callable[..., Array]] = {
            "f1": partial(formulas.f1, classes=len(self.class_names)),
            "matthews": partial(formulas.matthews, classes=len(self.class_names)),
            "pearson": formulas.pearson,
            "spearman": formulas.spearman,
        }
        return formulas.bootstrap_interval(statistics[self.primary], guesses, labels)

    def agreement(self, own: Predictions, baseline: Predictions) -> dict[str, float | None]:
        """Equal classes and KL of the logits; undefined for regression."""
        if self.regression:
            return {"same": None, "kl": None}
        same = float(np.mean(self._guesses(own) == self._guesses(baseline)))
        return {"same": same, "kl": mean_kl(baseline.arrays["logits"], own.arrays["logits"])}

    def metric_settings(self) -> dict[str, Any]:
        """How F1 averages."""
        return {"f1": "binary" if len(self.class_names) == 2 else "macro"} if "f1" in self._metric_names else {}

    @property
    def _metric_names(self) -> list[str]:
        return self.metric_names or (list(NUMBER_METRICS) if self.regression else ["accuracy", "f1"])

    def _guesses(self, predictions: Predictions) -> Array:
        logits = predictions.arrays["logits"]
        return logits[:, 0].astype(np.float64) if self.regression else logits.argmax(axis=-1)

    def _feature_identity(self) -> dict[str, Any]:
        return {"classes": self.class_names, "regression": self.regression}

    def _evaluation_settings(self) -> dict[str, Any]:
        return {}

    def _examples(self, rows: list[Row], where: str) -> list[Row]:
        examples = self._select(rows, where)
        column = self.columns["label"]
        ids = None if self.regression else label_ids(self.class_names, given=self.classes is not None)
        if all(example["label"] in (-1, None) for example in examples) and "-1" not in (ids or ()):
            raise UserError(
                f"task.columns.label: {where} is unlabelled ({column}={examples[0]['label']}); "
                "choose a labelled split (task.evaluate_on=validation)"
            )
        for number, example in enumerate(examples, 1):
            label, place = example["label"], f"{where}, row {number}"
            example["label"] = _number(label, place) if ids is None else _class_id(label, ids, place)
        return examples


def derive_classes(names: set[str], where: str) -> list[str]:
    """The different labels, whole numbers in numeric order.

    Raises:
        UserError: there is one class only, or the labels look like numbers to predict.
    """
    fraction = next((name for name in sorted(names) if _is_fraction(name)), None)
    if fraction is not None:
        raise UserError(
            f"task.columns.label: {where} has the label {fraction}, which is no class; "
            "set task.regression=true to predict numbers"
        )
    if len(names) < 2:
        found = f"the one class {min(names)!r}" if names else "no label"
        raise UserError(f"task.columns.label: {where} has {found}, two classes or more are needed")
    whole = all(name.lstrip("-").isdigit() for name in names)
    return sorted(names, key=int) if whole else sorted(names)


def label_ids(names: list[str], given: bool) -> dict[str, int]:
    """The spellings of labels with their ids; where names were given, an id is a spelling as well."""
    ids = {str(index): index for index in range(len(names))} if given else {}
    return ids | {name: index for index, name in enumerate(names)}


def _value(row: Row, column: str) -> Any:
    try:
        return lookup(row, column)
    except KeyError:
        return None


def _label_text(label: Any) -> str:
    """One spelling of a label in all formats: 1, 1.0, "1" and true are the same."""
    if isinstance(label, bool) or (isinstance(label, float) and label.is_integer()):
        return str(int(label))
    return str(label).strip()


def _is_fraction(name: str) -> bool:
    try:
        return not float(name).is_integer()
    except (ValueError, OverflowError):
        return False


def _class_id(label: Any, ids: dict[str, int], place: str) -> int:
    spelling = _label_text(label)
    if spelling not in ids:
        names = ", ".join(list(ids)[:20])
        raise UserError(f"task.columns.label: {place} has the label {label!r}, outside the classes; allowed: {names}")
    return ids[spelling]


def _number(label: Any, place: str) -> float:
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"task.columns.label: {place} has the label {label!r}, a number is needed for regression")
    return number

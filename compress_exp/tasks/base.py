"""What a task is: rows, features, batches, targets, predictions and what they are worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from compress_exp.config.checks import FieldError, UserError, check_choice, check_number, nearest
from compress_exp.config.identity import origin
from compress_exp.models.forward import IGNORED as IGNORED
from compress_exp.models.forward import LABELS
from compress_exp.tasks.data import (
    ROLES,
    EmbeddedSource,
    HubSource,
    LocalSource,
    Source,
    check_column,
    lookup,
    share,
)
from compress_exp.tasks.features import pad
from compress_exp.tasks.files import Row
from compress_exp.tasks.predictions import Predictions as Predictions
from compress_exp.tasks.predictions import Predictor as Predictor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

VALIDATION_SHARE = 0.1
FRAME = 4  # special tokens of a text at most


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Data, features and metrics of one task; subclasses are the kinds.

    Attributes:
        name: how tables call it.
        max_length: the longest input in tokens; a model with fewer positions shortens it.
        epochs: passes over the training rows that suit the task.
        batch_size: training rows per step that suit the task.
        eval_batch_size: rows per batch of an evaluation; it does not change the result.
        hub: a dataset of the Hugging Face hub.
        hub_config: its configuration.
        splits: the hub's own names of train, validation and test; null where there is none.
        data_dir: a directory of own files, which wins over `hub`; with neither, the embedded data is used.
        columns: the column of each role; a dotted path enters nested columns.
        train_fraction: the seeded share of the training rows that is used.
        holdout: the seeded share of the training rows that is never trained on, kept for choices to look at.
        evaluate_on: "validation", "test" or "holdout"; null evaluates the holdout where there is one, else validation.
        seed: decides which rows such a share holds.
        by_row: each row is one feature with one answer, so that a teacher may read it with a tokenizer of its own.
    """

    name: str
    columns: dict[str, Any]
    max_length: int
    epochs: float
    batch_size: int
    eval_batch_size: int = 32
    hub: str | None = None
    hub_config: str | None = None
    splits: dict[str, Any] = field(default_factory=lambda: {role: role for role in ROLES})
    data_dir: str | None = None
    train_fraction: float = 1.0
    holdout: float = 0.0
    evaluate_on: str | None = None
    seed: int = 0

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    auto_class: ClassVar[str]
    model_kinds: ClassVar[tuple[str, ...]]
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    embedded: ClassVar[str]
    text_roles: ClassVar[tuple[str, ...]]
    other_roles: ClassVar[tuple[str, ...]] = ()
    optional_roles: ClassVar[tuple[str, ...]] = ()
    running_text: ClassVar[bool] = False
    by_row: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("max_length", self.max_length, 2)
        check_number("epochs", self.epochs, 0)
        check_number("batch_size", self.batch_size, 1)
        check_number("eval_batch_size", self.eval_batch_size, 1)
        check_number("train_fraction", self.train_fraction, 0, 1)
        check_number("holdout", self.holdout, 0, 0.9)
        if self.evaluate_on is not None:
            check_choice("evaluate_on", self.evaluate_on, ("validation", "test", "holdout"))
        if self.train_fraction == 0:
            raise FieldError("train_fraction", "0 leaves no row to train on; set a share above 0, up to 1")
        if self.evaluate_on == "holdout" and not self.holdout:
            raise FieldError("evaluate_on", "there is no holdout; set task.holdout to a share of train, such as 0.1")
        roles = self.text_roles + self.other_roles
        for role, column in self.columns.items():
            if role not in roles:
                raise FieldError(f"columns.{role}", f"there is no such role; {nearest(role, roles)}")
            if column is not None and not isinstance(column, str):
                raise FieldError(f"columns.{role}", f"{column!r} is not allowed, the name of a column is")
        for role in roles:
            if role not in self.optional_roles and self.columns.get(role) is None:
                raise FieldError(f"columns.{role}", "the name of a column must be set")
        for role in self.splits:
            check_choice("splits", role, ROLES)

    @cached_property
    def source(self) -> Source:
        """Where the rows come from."""
        if self.data_dir is not None:
            return LocalSource(self.data_dir)
        if self.hub is not None:
            return HubSource(self.hub, self.hub_config, self.splits)
        return EmbeddedSource(self.embedded)

    @property
    def evaluated(self) -> str:
        """The rows that are evaluated: "validation", "test" or "holdout"."""
        return self.evaluate_on or ("holdout" if self.holdout else "validation")

    @property
    @abstractmethod
    def primary(self) -> str:
        """The name of the metric that stands for the quality."""

    @property
    def higher_is_better(self) -> bool:
        """The direction of the primary metric."""
        return True

    def check(self) -> None:
        """Look at local files: are they there, with the columns, and are the labels legal? The hub is not asked.

        Raises:
            UserError: one sentence.
        """
        source = self.source
        if not isinstance(source, LocalSource):
            return
        self._require(self.evaluated)
        for split in ("train", "validation" if self.evaluated == "holdout" else self.evaluated):
            if split == "train" or source.has(split):
                self._examples(source.sample(split), source.where(split))

    def identity(self) -> dict[str, Any]:
        """What decides training rows and features; JSON-able, without locations."""
        return {
            **origin(type(self)),
            "kind": self.kind,
            "rows": self.source.digest("train"),
            "columns": self._columns(),
            "max_length": self.max_length,
            "subset": self._subset() | {"train_fraction": self.train_fraction},
            **self._feature_identity(),
        }

    def evaluation_identity(self) -> dict[str, Any]:
        """What decides the evaluated rows and the predictions on them."""
        from_train = self.evaluated == "holdout" or not self.source.has(self.evaluated)
        return {
            **origin(type(self)),
            "kind": self.kind,
            "rows": self.source.digest("train" if from_train else self.evaluated),
            "part": self.evaluated if from_train else None,
            "subset": self._subset() if from_train else None,
            "columns": self._columns(),
            "max_length": self.max_length,
            "metrics": self.metric_settings(),
            **self._feature_identity(),
            **self._evaluation_settings(),
        }

    def rows(self, split: str) -> list[Row]:
        """Rows with our names of the columns.

        Args:
            split: "train" (what is trained on), "validation", "test", or "evaluation": whatever is evaluated.
        """
        part = self.evaluated if split == "evaluation" else split
        self._require(part)
        inside = self._parts.get(part)
        name = "train" if inside is not None else part
        return self._examples(self.source.take(name, inside), self.source.where(name))

    def texts(self) -> Iterator[str]:
        """The training text, for a tokenizer."""
        for row in self.rows("train"):
            yield from (row[role] for role in self.text_roles if role in row)

    def collate(self, features: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
        """Pad features to the longest of them; lists of labels are padded with -100."""
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        batch = {}
        for name in features[0]:
            values = [feature[name] for feature in features]
            if isinstance(values[0], list):
                fill = padding if name == "input_ids" else IGNORED if name.startswith(LABELS) else 0
                batch[name] = pad(values, fill)
            else:
                batch[name] = torch.tensor(values)
        lengths = torch.tensor([len(feature["input_ids"]) for feature in features])
        batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
        return batch

    def positions(self) -> int:
        """The most positions that `targets` gives of all training rows; a token is a byte of text at least."""
        return sum(len(text.encode()) + FRAME for text in self.texts())

    @abstractmethod
    def config_overrides(self) -> dict[str, Any]:
        """What the task decides in the model's configuration."""

    @abstractmethod
    def classes_of(self, config: PreTrainedConfig) -> int | None:
        """How many classes a model of this configuration tells apart: a teacher's and its student's must be equal.

        None where they are places in the input.
        """

    @abstractmethod
    def features(self, split: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[Row]:
        """Token ids and labels of a split, unpadded, in the order of its rows.

        Args:
            split: as for `rows`.
            tokenizer: the model's.
            config: the model's configuration, for its number of positions and its kind.
        """

    @abstractmethod
    def targets(self, outputs: Mapping[str, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) and labels (N,) of the positions that count, from the model's `outputs` by name."""

    @abstractmethod
    def evaluate(self, predictor: Predictor, tokenizer: PreTrainedTokenizerBase, progress: bool) -> Predictions:
        """Predict every evaluated row."""

    @abstractmethod
    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """All metrics by name."""

    @abstractmethod
    def interval(self, predictions: Predictions) -> tuple[float, float]:
        """The 95 % interval of the primary metric over the evaluated examples."""

    @abstractmethod
    def agreement(self, own: Predictions, baseline: Predictions) -> dict[str, float | None]:
        """`same`: share of equal predictions; `kl`: mean KL(baseline ‖ own), in nats; None where undefined."""

    @abstractmethod
    def metric_settings(self) -> dict[str, Any]:
        """What a reader must know to compare the metrics with others'."""

    @abstractmethod
    def _examples(self, rows: list[Row], where: str) -> list[Row]:
        """Rows of a source by role, checked."""

    @abstractmethod
    def _feature_identity(self) -> dict[str, Any]:
        """What else decides features."""

    @abstractmethod
    def _evaluation_settings(self) -> dict[str, Any]:
        """What else decides predictions."""

    def _columns(self) -> dict[str, str]:
        return {role: column for role, column in self.columns.items() if column is not None}

    def _select(self, rows: list[Row], where: str) -> list[Row]:
        columns = self._columns()
        if not rows:
            raise UserError(f"task: {where} holds no rows, at least one is needed")
        for role, column in columns.items():
            check_column(rows, role, column, where)
        texts = [role for role in columns if role in self.text_roles]
        selected = []
        for number, row in enumerate(rows, 1):
            try:
                example = {role: lookup(row, column) for role, column in columns.items()}
            except KeyError as error:
                raise UserError(f"task.columns: {where}, row {number} lacks the column {error}") from None
            for role in texts:
                if not isinstance(example[role], str):
                    message = f"{where}, row {number} holds {example[role]!r} in {columns[role]!r}, a text is needed"
                    raise UserError(f"task.columns.{role}: {message}")
            selected.append(example)
        return selected

    @cached_property
    def _parts(self) -> dict[str, list[int]]:
        """The parts of the source's train split, by index."""
        drawn = not self.source.has("validation")
        if not drawn and not self.holdout and self.train_fraction == 1:
            return {}
        rest: list[int] = list(range(self.source.size("train")))
        parts = {}
        for part, fraction in {"validation": VALIDATION_SHARE * drawn, "holdout": self.holdout}.items():
            if fraction:
                parts[part] = share(rest, fraction, f"{part}/{self.seed}", self.running_text)
                taken = set(parts[part])
                rest = [index for index in rest if index not in taken]
        if not rest:
            raise UserError(f"task: {self.source.where('train')} has too few rows to share out train and validation")
        parts["train"] = rest
        if self.train_fraction < 1:
            parts["train"] = share(rest, self.train_fraction, f"train/{self.seed}", self.running_text)
        return parts

    def _subset(self) -> dict[str, Any]:
        validation = 0.0 if self.source.has("validation") else VALIDATION_SHARE
        drawn = validation or self.holdout or self.train_fraction < 1
        return {"validation": validation, "holdout": self.holdout, "seed": self.seed if drawn else None}

    def _require(self, part: str) -> None:
        if part == "test" and not self.source.has("test"):
            key = "task.evaluate_on" if self.evaluate_on == "test" else "task.splits.test"
            raise UserError(f"{key}: {self.source.where('test')} has no test split; allowed: validation")

"""A task as the measuring process sees it: seeded token ids, a metric, and a log of its evaluations."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress_exp.config.checks import UserError
from compress_exp.tasks.base import Predictions

ROWS, LENGTH = 6, 9


@dataclass(frozen=True, kw_only=True)
class FakeTask:
    log: str
    generates: bool = False
    fail: str = ""
    train_fraction: float = 1.0

    primary = "mean"
    higher_is_better = True
    evaluated = "validation"
    outputs = ("logits",)

    def __post_init__(self) -> None:
        if self.fail == "user":
            raise UserError("task.columns.text: there is no such column")
        if self.fail == "bug":
            raise ZeroDivisionError("first line\nsecond line")
        if self.fail == "death":
            os._exit(3)

    def evaluate(self, predictor: Any, tokenizer: Any, progress: bool) -> Predictions:
        with Path(self.log).open("a") as stream:
            stream.write(
                f"{type(predictor.predictor).__name__} {predictor.config.vocab_size} {torch.get_num_threads()}\n"
            )
        ids = torch.randint(5, 50, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        values = (
            predictor.generate(batch, 4, 1)[:, -4:].float() if self.generates else predictor.outputs(batch)["logits"]
        )
        return Predictions({"values": values.numpy()})

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        return {"mean": float(predictions.arrays["values"].mean()) + 1e3}

    def interval(self, predictions: Predictions) -> tuple[float, float]:
        return 0.0, 1.0

    def agreement(self, own: Predictions, baseline: Predictions) -> dict[str, float | None]:
        return {"same": float(np.mean(own.arrays["values"] == baseline.arrays["values"])), "kl": None}

    def features(self, split: str, tokenizer: Any, config: Any) -> list[dict[str, Any]]:
        ids = torch.randint(5, 50, (12, LENGTH), generator=torch.Generator().manual_seed(1))
        return [{"input_ids": row.tolist(), "labels": row.tolist() if self.generates else 0} for row in ids]

    def collate(self, features: list[dict[str, Any]], tokenizer: Any) -> dict[str, torch.Tensor]:
        batch = {name: torch.tensor([row[name] for row in features]) for name in features[0]}
        return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}

    def rows(self, split: str) -> list[dict[str, Any]]:
        return [{}] * ROWS

    def evaluation_identity(self) -> dict[str, Any]:
        return {"generates": self.generates}

"""What a runtime answers and what is kept of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from compress_exp.tasks.formulas import Array


class Predictor(Protocol):
    """A loaded model in some runtime."""

    @property
    def config(self) -> Any:
        """The transformers configuration of the model."""

    def outputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's outputs for a collated batch, by name: float32, on the CPU."""

    def generate(self, batch: dict[str, Tensor], max_new_tokens: int, num_beams: int) -> Tensor:
        """Generated token ids for `input_ids` and `attention_mask`."""


@dataclass
class Predictions:
    """What a model said about the evaluated rows, in their order.

    Attributes:
        arrays: per-example values by name.
        texts: generated texts.
    """

    arrays: dict[str, Array]
    texts: list[str] | None = None

    def save(self, directory: Path) -> None:
        """Write `predictions.safetensors` and `texts.json`."""
        from safetensors.numpy import save_file

        directory.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(array) for name, array in self.arrays.items()}, _arrays_file(directory))
        (directory / "texts.json").write_text(json.dumps(self.texts, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Predictions:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        texts = json.loads((directory / "texts.json").read_text(encoding="utf-8"))
        return cls(load_file(_arrays_file(directory)), texts)


def _arrays_file(directory: Path) -> Path:
    return directory / "predictions.safetensors"

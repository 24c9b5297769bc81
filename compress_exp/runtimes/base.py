"""What a runtime is: one file here for each, found by its name; `RUNTIME` in it is the one instance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from compress_exp.config.plugins import modules

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Ids = NDArray[np.int64]
Call = Callable[[], Any]

PRECISIONS = {"f32": "f32", "bf16": "bf16", "float32": "f32", "bfloat16": "bf16"}
INTEGER = ("u8", "i8")


class Unserved(Exception):
    """A runtime cannot take a model; the message says why."""


class Deployed(Protocol):
    """A model in a runtime: a predictor for `Task.evaluate` that can be timed and asked what it executes."""

    config: Any

    def outputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's outputs for a collated batch, by name: float32, on the CPU."""

    def generate(self, batch: dict[str, Tensor], max_new_tokens: int, num_beams: int) -> Tensor:
        """Generated token ids for `input_ids` and `attention_mask`; refused by runtimes of encoders."""

    def forward_call(self, ids: Ids) -> Call:
        """A call that runs one prepared batch."""

    def generate_call(self, ids: Ids, new_tokens: int) -> Call:
        """A call that generates exactly `new_tokens` for one prepared batch, greedily."""

    def precision(self) -> str:
        """The floating precision that the runtime says it uses."""

    def executed(self) -> dict[str, int]:
        """Matrix products with weights by the precision that they run in, e.g. {"u8": 36, "f32": 1}."""


class Runtime(ABC):
    """A place where models run.

    Attributes:
        name: of its file, and in records.
        package: the distribution whose version decides what it computes.
        files: patterns of what it loads from a directory; their bytes are the deployed size.
        preference: among runtimes that are equally fast the lowest is taken.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    preference: ClassVar[int]

    @abstractmethod
    def serves(self, kind: str, device: str, precision: str) -> bool:
        """Whether it runs models of a kind (encoder, decoder, encoder_decoder) on a device in a precision."""

    @abstractmethod
    def export(self, model: PreTrainedModel, directory: Path) -> None:
        """Write what `open` reads; the model stays as it was.

        Raises:
            Unserved: the runtime cannot take this model.
        """

    @abstractmethod
    def open(self, directory: Path, config: Any, precision: str, threads: int, device: str) -> Deployed:
        """Load an export.

        Args:
            directory: where the files are.
            config: the transformers configuration of the model, for the task; None where nothing is evaluated.
            precision: f32 or bf16.
            threads: CPU threads.
            device: "cpu" or "cuda".
        """

    @abstractmethod
    def multiply(
        self,
        layer: nn.Module,
        inputs: Tensor,  # (rows, in)
    ) -> Tensor:  # (rows, out)
        """Run one layer on the CPU by the way that whole models go: exported, compiled, executed."""

    @property
    def version(self) -> str:
        """The installed release."""
        return version(self.package)


def names() -> list[str]:
    """Every runtime by name."""
    return sorted(name for name in modules("compress_exp.runtimes") if name != "base")


def runtime(name: str) -> Runtime:
    """The runtime of a name."""
    found: Runtime = import_module(modules("compress_exp.runtimes")[name]).RUNTIME
    return found


def serving(kind: str, device: str, precision: str) -> list[Runtime]:
    """The runtimes that take a kind of model, in the order of preference."""
    served = [one for one in map(runtime, names()) if one.serves(kind, device, precision)]
    return sorted(served, key=lambda one: one.preference)


def random_ids(vocabulary: int, special: list[int], batch: int, length: int) -> Ids:
    """Seeded token ids without special ones: (batch, length)."""
    ordinary = np.setdiff1d(np.arange(vocabulary, dtype=np.int64), np.array(special, dtype=np.int64))
    return np.random.default_rng(0).choice(ordinary, size=(batch, length))

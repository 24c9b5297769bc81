"""One model as it is measured: its artifact, loaded in PyTorch, and what stands for it in each runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exp.measurement import fidelity, kernels
from compress_exp.measurement.hardware import Hardware
from compress_exp.outputs.store import Store
from compress_exp.runtimes.base import PRECISIONS, Deployed, Runtime, Unserved, random_ids
from compress_exp.runtimes.eager import EagerPredictor

if TYPE_CHECKING:
    from torch import Tensor

    from compress_exp.layers.stored import Stored
    from compress_exp.tasks.base import Task

Place = Callable[[Runtime, Callable[[Path], None]], Path]


@dataclass
class Subject:
    """A loaded artifact.

    Attributes:
        path: its directory.
        parent: the directory of what it was made from; its own where it is the dense model.
        hardware: where it runs.
        task: gives calibration rows.
        eager: the model in PyTorch.
        tokenizer: lies beside it.
        place: the directory of a runtime's export: made now, or kept in a store.
        deployed: the model in each runtime that passed, by name.
        files: the directory that each of them loads from.
    """

    path: Path
    parent: Path
    hardware: Hardware
    task: Task
    eager: EagerPredictor
    tokenizer: Any
    place: Place
    deployed: dict[str, Deployed] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        """Of its floating values: bf16 where its own configuration says so, else what the hardware profile asks for."""
        config = json.loads((self.path / "config.json").read_text())
        stored = PRECISIONS.get(str(config.get("dtype") or config.get("torch_dtype")), "f32")
        return self.hardware.precision if stored == "f32" else stored

    @cached_property
    def batches(self) -> list[dict[str, Tensor]]:
        """Calibration rows as it reads them."""
        return fidelity.calibration(self.task, self.tokenizer, self.eager.config)

    @cached_property
    def distance(self) -> float | None:
        """From its parent's outputs, where it multiplies integers; None where it does not."""
        if not self.int8_layers:
            return None
        own = fidelity.reference(self.eager.model, self.task, f"artifact {self.path.name}")
        return fidelity.distance_from_parent(own, self.batches, *fidelity.of_artifact(self.parent, self.task))

    @property
    def special(self) -> list[int]:
        """Ids that are not text."""
        return [int(token) for token in self.tokenizer.all_special_ids]

    def ids(self, batch: int, length: int) -> Any:
        """Input ids of its own vocabulary."""
        return random_ids(self.eager.config.vocab_size, self.special, batch, length)

    @property
    def stored_layers(self) -> list[Stored]:
        """Its layers that are not the architecture's."""
        from compress_exp.layers.stored import Stored

        return [module for module in self.eager.model.modules() if isinstance(module, Stored)]

    @property
    def int8_layers(self) -> list[Stored]:
        """Those that multiply integers."""
        return [layer for layer in self.stored_layers if layer.largest_code is not None]

    @property
    def largest_code(self) -> int:
        """The largest magnitude among the codes of those layers."""
        return max((layer.largest_code or 0 for layer in self.int8_layers), default=0)

    def deploy(self, runtime: Runtime, checks: Path) -> str | None:
        """Put it into a runtime, if that computes here what the artifact says.

        Args:
            runtime: where to.
            checks: the directory of kept checks of kernels.

        Returns:
            Why the runtime is left out, in a sentence; None where it is not.
        """
        files, opened = self.path, self.eager  # type: Path, Deployed
        if runtime.name != "eager":
            if self.largest_code and not (seen := kernels.check(runtime, self.largest_code, checks)).exact:
                return str(seen)
            try:
                files = self.place(runtime, lambda directory: runtime.export(self.eager.model, directory))
            except Unserved as error:
                return f"{runtime.name}: left out, {error}"
            opened = self._open(runtime, files, self.hardware.threads)
        if runtime.name != "eager" or self.int8_layers:
            own = fidelity.reference(self.eager.model, self.task, f"artifact {self.path.name}")
            found = fidelity.check(runtime.name, opened.outputs, own, self.batches, self.distance, self.precision)
            if not found.faithful:
                return str(found)
        self.deployed[runtime.name], self.files[runtime.name] = opened, files
        return None

    def with_threads(self, runtime: Runtime, threads: int) -> Deployed:
        """The model in a runtime on so many threads; for evaluation, whose numbers do not depend on them."""
        return self.eager if runtime.name == "eager" else self._open(runtime, self.files[runtime.name], threads)

    def ran(self, runtime: Runtime, prefix: str) -> dict[str, Any]:
        """What a runtime says of it, for the record: its floating precision, and what its products run in."""
        deployed = self.deployed[runtime.name]
        return {f"{prefix}precision": deployed.precision(), f"{prefix}executed": deployed.executed()}

    def memory_job(self, runtime: Runtime, headline: Mapping[str, Any]) -> dict[str, Any]:
        """What a process is told that runs the headline's shape of it, and nothing else: see `measure.memory`."""
        return {
            "directory": str(self.files[runtime.name]),
            "runtime": runtime.name,
            "device": self.hardware.device,
            "precision": self.precision,
            "threads": self.hardware.threads,
            "vocabulary": self.eager.config.vocab_size,
            "special": self.special,
            "batch": headline["batch_size"],
            "length": headline["length"],
            "new_tokens": headline.get("new_tokens"),
        }

    def _open(self, runtime: Runtime, files: Path, threads: int) -> Deployed:
        return runtime.open(files, self.eager.config, self.precision, threads, self.hardware.device)


def load(path: Path, parent: Path, hardware: Hardware, task: Task, place: Place) -> Subject:
    """Load an artifact from disk, into PyTorch."""
    from transformers import AutoTokenizer

    from compress_exp.formats import artifact

    predictor = EagerPredictor(artifact.load(path), hardware.device)
    return Subject(path, parent, hardware, task, predictor, AutoTokenizer.from_pretrained(path), place)


def beside(directory: Path) -> Place:
    """Exports into a directory, one for each runtime."""

    def place(runtime: Runtime, export: Callable[[Path], None]) -> Path:
        export(directory / runtime.name)
        return directory / runtime.name

    return place


def in_store(store: Store, hardware: Hardware, key: str, artifact: Path) -> Place:
    """Exports that are kept for every run that needs them.

    Args:
        store: where evaluations are kept.
        hardware: its precision decides the export.
        key: of the artifact.
        artifact: its directory; an export that is older is made again.
    """

    def place(runtime: Runtime, export: Callable[[Path], None]) -> Path:
        def build(directory: Path, check: Callable[[], None]) -> dict[str, Any]:
            export(directory)
            return {}

        recipe = {"kind": runtime.name, "artifact": key, **hardware.evaluation_identity(runtime)}
        return store.get(recipe, build, f"{runtime.name} export", built_at(artifact))

    return place


def built_at(artifact: Path) -> float:
    """When an artifact was finished: nothing made from it may be older."""
    facts = artifact / "build.json"
    return facts.stat().st_mtime if facts.exists() else 0.0

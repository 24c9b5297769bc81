"""Compressing from Python: the command line's plan, store and pipeline, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from compress_exp.config.build import plain
from compress_exp.config.checks import UserError
from compress_exp.config.compose import choices, compose
from compress_exp.config.refusal import refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ARGUMENTS = ("model", "method", "task", "outputs")
ELSEWHERE = {
    "plan": "compress builds; the command line shows a plan",
    "until": "compress builds the whole chain; give fewer methods",
}


@dataclass(frozen=True)
class Compressed:
    """A compressed model on disk.

    Attributes:
        path: the directory of the artifact, with its tokenizer.
        baseline: that of the dense model that it is compared with.
        overrides: the arguments of the command line that finds the same artifact.
        record: what was measured of it, None where nothing was: see `docs/results.md`.
    """

    path: Path
    baseline: Path
    overrides: tuple[str, ...]
    record: dict[str, Any] | None

    def load(self) -> PreTrainedModel:
        """The model in evaluation mode, as it is on disk."""
        from compress_exp.formats import artifact

        return artifact.load(self.path)


def compress(
    model: str | Path,
    method: str | Sequence[str],
    task: str | Path,
    outputs: str | Path,
    overrides: Sequence[str],
    measure: bool,
) -> Compressed:
    """See `compress_exp.compress`."""
    with one_sentence():
        arguments = [
            *model_arguments(model),
            f"method={method if isinstance(method, str) else '[' + ','.join(method) + ']'}",
            *task_arguments(task),
            f"outputs={quoted(Path(outputs).expanduser())}",
            *checked(overrides),
        ]
        config = compose(arguments)
        from compress_exp.experiment.plan import plan
        from compress_exp.outputs.files import make_outputs
        from compress_exp.outputs.records import finished
        from compress_exp.outputs.store import Store
        from compress_exp.run import run

        planned = plan(config)
        store = Store(make_outputs(config.outputs) / "artifacts", config.lease_seconds)
        config.since = config.since or time.time()  # the process that `force` looks at is older than the call
        with undisturbed():
            config.until = len(planned.stages)  # a record alone does not bring back an artifact that was removed
            run(config, arguments)
            config.until = None
            if measure:
                run(config, arguments)
        path, baseline = store.find(planned.artifact_key), store.find(planned.baseline_key)
        assert path is not None and baseline is not None
        record = finished(store.root.parent / "runs" / planned.run_name, False, plain(config.score))
    return Compressed(path, baseline, tuple(arguments), record)


def model_arguments(model: str | Path) -> list[str]:
    """A choice of the group `model`, or a directory of weights; an artifact of ours is the baseline as it is."""
    if (place := directory("model", model)) is None:
        return [f"model={model}"]
    arguments = ["model=bert", f"model.name={quoted(place.resolve().name)}", f"model.path={quoted(place)}"]
    return arguments + ["model.finetuned=true"] * (place / "recipe.json").is_file()


def task_arguments(task: str | Path) -> list[str]:
    """A choice of the group `task`, or a directory of texts with labels."""
    place = directory("task", task)
    return [f"task={task}"] if place is None else ["task=classification", f"task.data_dir={quoted(place)}"]


def directory(group: str, given: str | Path) -> Path | None:
    """The directory that is meant; None for a name, which wins over a directory called like it."""
    place = Path(given).expanduser()
    named = not isinstance(given, Path) and (given in choices(group) or not ("/" in given or place.is_dir()))
    return None if named else place


def quoted(text: str | Path) -> str:
    """A path as the value of an override, in quotes where it needs them."""
    parser = OverridesParser.create()
    try:
        plain = parser.parse_override(f"path={text}").value() == str(text)
    except HydraException:
        plain = False
    return str(text) if plain else QuotedString(str(text), Quote.single).with_quotes()


def checked(overrides: Sequence[str]) -> list[str]:
    """Overrides that are none of the arguments, and that a call can obey.

    Raises:
        UserError: one of them is not.
    """
    if isinstance(overrides, str):
        raise UserError(f"overrides: a list is needed, as in [{overrides!r}]")
    for item in overrides:
        key = item.split("=")[0].lstrip("+~")
        if key in ARGUMENTS:
            raise UserError(f"{item}: give {key} as an argument, not among the overrides")
        if key in ELSEWHERE:
            raise UserError(f"{item}: {ELSEWHERE[key]}")
    return list(overrides)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Tell what a user can mend in the sentence of the command line; everything else goes through as it is.

    Raises:
        UserError: the sentence.
    """
    try:
        yield
    except Exception as error:
        if (told := refusal(error)) is None:
            raise
        raise UserError(told) from None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave PyTorch's threads and its random numbers to the notebook as they were."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            torch.set_num_threads(threads)

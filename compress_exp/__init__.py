"""Compress transformer language models and measure what was exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from transformers import PreTrainedModel

    from compress_exp.notebook.compress import Compressed


def load(path: Path | str, plugins: Sequence[str] = ()) -> PreTrainedModel:
    """Load an artifact of any method in evaluation mode.

    Args:
        path: a directory under `outputs/artifacts`, or a copy of one.
        plugins: own packages with the families or kinds of layers that it needs, trusted from then on in this process;
            those that the environment variable COMPRESS_EXP_PLUGINS names are trusted anyway.
    """
    from compress_exp.config.plugins import use
    from compress_exp.formats import artifact

    use(plugins)
    return artifact.load(path)


def compress(
    model: str | Path,
    method: str | Sequence[str],
    task: str | Path,
    outputs: str | Path = "outputs",
    overrides: Sequence[str] = (),
    measure: bool = False,
) -> Compressed:
    """Compress a model as the command line does: what either has built, the other finds.

    Progress is in the log of the name compress_exp, which `logging.basicConfig(level="INFO")` shows.

    Args:
        model: a file of `conf/model`, such as "tiny_bert", or a directory of Hugging Face weights, which trains as
            `model=bert` does (learning rate 5e-5). An artifact without a format of its own is taken as the baseline
            that it is; any other artifact is refused, as it is compressed already.
        method: as on the command line, such as "prune/magnitude"; a list makes a pipeline.
        task: a file of `conf/task`, or a directory of texts with labels (`task.data_dir` of `task=classification`).
        outputs: the directory of all results.
        overrides: anything else as on the command line, such as ["method.prune.sparsity=0.8", "seed=1"].
        measure: also measure the artifact beside its baseline and keep the record.

    Returns:
        Where the artifact is, with `load()` for the model and the record if there is one.

    Raises:
        compress_exp.config.checks.UserError: it cannot be done, in one sentence.
    """
    from compress_exp.notebook.compress import compress as build

    return build(model, method, task, outputs, overrides, measure)


def measure(
    artifact: Compressed | str | Path,
    baseline: str | Path | None = None,
    hardware: str = "cpu",
    task: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure an artifact of a store on a hardware profile beside its baseline; no record is kept.

    Args:
        artifact: what `compress` returned, or a directory under `outputs/artifacts`.
        baseline: the directory of the dense model; by default the one that the artifact was made from.
        hardware: a file of `conf/hardware`.
        task: as for `compress`, for a directory; by default what the artifact was compressed for.
        overrides: keys of task and hardware as on the command line, such as ["hardware.threads=2"].

    Returns:
        The record's blocks quality, size, latency, memory, energy, runtime and flags.

    Raises:
        compress_exp.config.checks.UserError: it cannot be done, in one sentence.
    """
    from compress_exp.notebook.measure import measure as blocks

    return blocks(artifact, baseline, hardware, task, overrides)


def records(outputs: str | Path = "outputs") -> pd.DataFrame:
    """The finished runs as in `reports/table.csv`: a row for each, and one for each baseline, named so under "run".

    Args:
        outputs: the directory of all results.

    Raises:
        compress_exp.config.checks.UserError: there are none.
    """
    from compress_exp.notebook.records import records as frame

    return frame(outputs)

"""The record of a run: everything measured, beside what was run, with what, from what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from compress_exp.config.build import plain
from compress_exp.config.secrecy import kept, safe
from compress_exp.experiment.plan import Plan
from compress_exp.outputs.command import command
from compress_exp.outputs.files import digest, finite

SCHEMA = 1


def measure_run(
    planned: Plan, config: DictConfig, paths: list[Path], deploy: Path, newer_than: float
) -> dict[str, Any]:
    """Measure the last artifact beside the baseline, in fresh processes; evaluations older than a time are redone."""
    from compress_exp.measurement.measure import measure

    return measure(
        artifact=paths[-1],
        baseline=paths[0],
        task_config=plain(config.task),
        hardware_config=plain(config.hardware),
        keys={"artifact": planned.artifact_key, "baseline": planned.baseline_key},
        outputs=Path(config.outputs),
        deploy=deploy,
        parent=paths[-2],
        lease_seconds=config.lease_seconds,
        stages={path.name: path for path in paths[1:-1]} if config.measure.stages == "all" else {},
        newer_than=newer_than,
    )


def assemble(
    planned: Plan,
    config: DictConfig,
    paths: list[Path],
    measured: dict[str, Any],
    cost: dict[str, float],
    arguments: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The record: everything measured, beside what was run, with what, from what.

    Args:
        planned: the experiment.
        config: what it was built from.
        paths: the artifacts, the baseline first.
        measured: see `measure`.
        cost: seconds of measuring.
        arguments: overrides of a run that no command line asked for.
    """
    from compress_exp.measurement.origin import origin
    from compress_exp.outputs.score import weighted_score

    rows = stage_rows(planned, paths, measured["stages"] | {planned.artifact_key: measured["quality"]["metrics"]})
    baseline = json.loads((paths[0] / "build.json").read_text())
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "run": {
            "id": planned.run_id,
            "name": planned.run_name,
            "model": planned.model.name,
            "task": planned.task.name,
            "method": [stage.label for stage in planned.stages],
            "loss": ["+".join(type(loss).__name__ for loss in stage.losses.values()) for stage in planned.stages],
            "hardware": planned.hardware.name,
            "runtime": measured["runtime"],
            "seed": planned.seed,
            "command": command(arguments),
            "overrides": overrides() if arguments is None else kept(arguments),
        },
        **{block: measured[block] for block in ("quality", "size", "latency", "memory", "energy", "flags")},
        "stages": rows,
        "cost": cost
        | {"baseline_seconds": baseline["seconds"], "compressing_seconds": sum(r["seconds"] for r in rows)},
        "origin": origin()
        | {
            "artifact": planned.artifact_key,
            "baseline": planned.baseline_key,
            "parent": rows[-2]["artifact"] if len(rows) > 1 else planned.baseline_key,
            "data": {
                "train": digest(planned.task.identity()),
                "evaluation": digest(planned.task.evaluation_identity()),
            },
            "methods": [method.identity() for stage in planned.stages for method in stage.methods],
            "sources": sources(planned),
        },
    }
    record["score"] = weighted_score(record, plain(config.score))
    return safe(finite(record))


def overrides() -> list[str]:
    """What this run sets differently from the configuration files."""
    from hydra.core.hydra_config import HydraConfig

    return kept(map(str, HydraConfig.get().overrides.task)) if HydraConfig.initialized() else []


def sources(plan: Plan) -> dict[str, str | None]:
    """The model and the data set as the Hugging Face hub names them; None for what is from elsewhere."""
    model, task = plan.model, plan.task
    return {"model": None if model.path else model.hub, "dataset": None if task.data_dir else task.hub}


def stage_rows(plan: Plan, paths: Sequence[Path], quality: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The record's block about the stages: what each took, how many bytes it left, its metrics where there are any."""
    from compress_exp.measurement.size import WEIGHTS, bytes_of

    rows: list[dict[str, Any]] = []
    for stage, path in zip(plan.stages, paths[1:], strict=True):
        facts = json.loads((path / "build.json").read_text())
        rows.append(
            {
                "methods": [method.name for method in stage.methods],
                "artifact": path.name,
                "seconds": facts["seconds"],
                "steps": facts["steps"],
                "bytes": bytes_of(path, WEIGHTS),
                "quality": quality.get(path.name),
            }
        )
    return rows

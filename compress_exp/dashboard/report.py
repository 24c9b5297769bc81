"""The W&B report: found again by its title."""

from __future__ import annotations

import json
from typing import Any

import wandb
from wandb_workspaces.reports.v2 import interface as wr

from compress_exp.dashboard import panels

TITLE = "compress_exp: size, speed and quality"
ABOUT = (
    "Every number is measured on what was exported, beside the dense model on the same machine. Absolute times of "
    "different machines do not compare; the exact Pareto front and the intervals are in outputs/reports/report.html."
)


def report(entity: str, project: str) -> wr.Report:
    """The report, not saved yet; without an entity it stands for any and needs no network."""
    blocks: list[Any] = [wr.P(ABOUT)]
    for title, found in panels.sections().items():
        runs = wr.Runset(name="Runs", groupby=["config.method"], entity=entity, project=project)
        blocks += [wr.H2(title), wr.PanelGrid(runsets=[runs], panels=found)]
    return wr.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def spec(made: wr.Report) -> dict[str, Any]:
    """What is saved of it."""
    model = made._to_model()
    content = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"displayName": model.display_name, "spec": content}


def save(api: wandb.Api, entity: str, project: str) -> str:
    """Make it, or replace the one of that title; its address."""
    made = report(entity, project)
    made.id = next((found.id for found in api.reports(f"{entity}/{project}") if found.display_name == TITLE), "")
    made.save()
    return str(made.url)

"""The saved workspace: made under a fixed name, by which the next call finds it again."""

from __future__ import annotations

import json
from typing import Any

import wandb_workspaces.workspaces as ws
from wandb_workspaces.workspaces import internal
from wandb_workspaces.workspaces.errors import SpecVersionError

from compress_exp.config.checks import UserError
from compress_exp.dashboard import panels

TITLE = "compress_exp"
NAME = "compressexp"  # in the page's address, as nw=compressexp


def workspace(entity: str, project: str) -> ws.Workspace:
    """The workspace, not saved yet."""
    found = ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=[
            ws.Section(
                name=title, panels=found, is_open=True, layout_settings=ws.SectionLayoutSettings(columns=2, rows=2)
            )
            for title, found in panels.sections().items()
        ],
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config("method")],
            order=[ws.Ordering(ws.Summary(panels.BYTES))],
            pinned_columns=[f"summary:{key}" for key in (panels.PRIMARY, panels.BYTES, panels.P50, "latency/speedup")],
        ),
    )
    found._internal_name = internal._url_query_str_to_internal_name(NAME)
    return found


def spec(made: ws.Workspace) -> dict[str, Any]:
    """What is saved of it."""
    model = made._to_model()
    content = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"name": model.name, "displayName": model.display_name, "spec": content}


def save(entity: str, project: str) -> str:
    """Make it, or replace the one of that name; its address."""
    made = workspace(entity, project)
    try:
        made._internal_id = internal.get_view_dict(entity, project, NAME)["id"]
    except ValueError:  # there is none yet
        pass
    except SpecVersionError as error:
        raise UserError(f"the saved workspace {TITLE} is not replaced: {error}") from error
    made.save()
    return str(made.url)

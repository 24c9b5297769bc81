"""Both views of a project: printed, or saved on the server."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compress_exp.config.checks import UserError
from compress_exp.tracking.wandb import WandbTracking, address, own_places
from compress_exp.tracking.wandb_account import check_server


def preview(tracking: WandbTracking) -> str:
    """Both as JSON, the same whenever it is asked for."""
    _check_library()
    from compress_exp.dashboard import report, workspace

    views = {"workspace": workspace.spec(workspace.workspace(tracking.entity or "", tracking.project))}
    views["report"] = report.spec(report.report("", tracking.project))
    content = {"entity": tracking.entity, "project": tracking.project} | _without_random(views)
    return json.dumps(content, indent=1)


def save(tracking: WandbTracking, outputs: Path) -> str:
    """Make or replace both.

    Args:
        tracking: names project and entity.
        outputs: where wandb may keep what it caches.

    Returns:
        Where they are, a line for each.

    Raises:
        UserError: there is no key, or the server does not answer or refuses.
    """
    _check_library()
    import wandb

    from compress_exp.dashboard import report, workspace

    with own_places(outputs / "wandb"):
        check_server(address(outputs))
        try:
            api = wandb.Api()
            entity = tracking.entity or str(api.default_entity)
            if all(project.name != tracking.project for project in api.projects(entity)):
                api.create_project(tracking.project, entity)
            addresses = {"workspace": workspace.save(entity, tracking.project)}
            addresses["report"] = report.save(api, entity, tracking.project)
        except UserError:
            raise
        except Exception as error:  # neither library has a common class for what a server may refuse
            raise UserError(f"W&B: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return "\n".join(f"{name:<10} {address}" for name, address in addresses.items())


def _check_library() -> None:
    if find_spec("wandb_workspaces") is None:
        raise UserError("a dashboard needs the package wandb-workspaces: pip install 'compress_exp[dashboard]'")


def _without_random(node: Any) -> Any:
    """A copy without the names that the library draws: of panels, and of the run sets of a report."""
    if isinstance(node, dict):
        kept = {name: value for name, value in node.items() if name != "__id__"}
        if "runFeed" in kept:
            kept.pop("id", None)
        return {name: _without_random(value) for name, value in kept.items()}
    return [_without_random(item) for item in node] if isinstance(node, list) else node

"""The workspace and the report: what is sent, that they are found again, and what is said where they cannot be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from compress_exp.config.schema import CONF
from compress_exp.dashboard.__main__ import main
from tests.tracking.wandb_server import Wandb


def preview(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    assert main(["--dry-run", *overrides]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def plots(node: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every plot in a specification, by kind."""
    if isinstance(node, dict):
        own = [(node["viewType"], node["config"])] if "viewType" in node and "config" in node else []
        return own + [plot for value in node.values() for plot in plots(value)]
    return [plot for item in node for plot in plots(item)] if isinstance(node, list) else []


def groups(node: Any) -> list[Any]:
    if isinstance(node, dict):
        own = [node["grouping"]] if "grouping" in node else []
        return own + [item for value in node.values() for item in groups(value)]
    return [group for item in node for group in groups(item)] if isinstance(node, list) else []


def drawn(node: Any) -> Any:
    """Without the names that the library draws anew."""
    if isinstance(node, dict):
        return {name: drawn(value) for name, value in node.items() if name not in ("__id__", "id", "project")}
    return [drawn(item) for item in node] if isinstance(node, list) else node


def test_both_views_show_the_trade_offs_by_the_keys_that_runs_log(capsys: pytest.CaptureFixture[str]) -> None:
    content = preview(capsys, "tracking.project=mine", "tracking.entity=team")
    assert (content["project"], content["entity"]) == ("mine", "team")
    for view in ("workspace", "report"):
        found = plots(content[view]["spec"])
        kinds = [kind for kind, _ in found]
        assert kinds.count("Scatter Plot") == 2 and kinds.count("Parallel Coordinates Plot") == 1
        assert kinds.count("Run Comparer") == 1
        scatter = next(config for kind, config in found if kind == "Scatter Plot")
        assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:size/artifact_bytes", "summary:quality/primary")
        bars = [config for kind, config in found if kind == "Bar Chart"]
        assert bars[0]["metrics"] == ["latency/p50_ms", "latency/p99_ms"]
        assert {config["groupBy"] for config in bars} == {"method.value"}
        assert all(grouping == [{"section": "config", "name": "method.value"}] for grouping in groups(content[view]))


def test_a_preview_is_the_same_in_another_process_without_home_key_and_network(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "compress_exp.dashboard", "--dry-run"]
    environment = {
        "PATH": "",
        "HOME": str(tmp_path),
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "PYTHONPATH": str(CONF.parent),
    }
    found = [subprocess.run(line, capture_output=True, check=True, env=environment, cwd=tmp_path).stdout for _ in "ab"]
    assert found[0] == found[1] and json.loads(found[0])["workspace"]
    assert not list(tmp_path.iterdir())


def test_saved_twice_they_are_replaced(
    server: Wandb, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = preview(capsys)
    place = f"outputs={tmp_path / 'out'}"
    assert main([place]) == 0
    assert server.projects == ["compress_exp"]
    first = {view.kind: view for view in server.views.values()}
    assert set(first) == {"project-view", "runs"} and len(server.views) == 2
    addresses = capsys.readouterr().out
    assert "me/compress_exp?nw=compressexp" in addresses and "/reports/" in addresses
    for view in server.views.values():
        view.spec = {"changed": "by hand"}
    assert main([place]) == 0
    again = {view.kind: view for view in server.views.values()}
    assert len(server.views) == 2 and server.projects == ["compress_exp"]
    assert {view.id for view in again.values()} == {view.id for view in first.values()}
    assert again["project-view"].name == content["workspace"]["name"]
    assert drawn(again["project-view"].spec) == drawn(content["workspace"]["spec"])
    assert drawn(again["runs"].spec) == drawn(content["report"]["spec"])


def test_other_views_of_the_project_are_left_alone(server: Wandb, tmp_path: Path) -> None:
    server.projects.append("compress_exp")
    for kind in ("project-view", "runs"):
        given = {"name": f"other-{kind}", "type": kind, "displayName": "Somebody's", "spec": "{}"}
        server.save(given)
    assert main([f"outputs={tmp_path / 'out'}"]) == 0
    assert len(server.views) == 4
    assert [view.spec for view in server.views.values() if view.title == "Somebody's"] == [{}, {}]


@pytest.mark.parametrize("flags", [[], ["--push"]])
def test_what_is_missing_is_one_sentence(
    server: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    (tmp_path / "out" / "runs" / "x").mkdir(parents=True)
    record = {"run": {"id": "x"}, "quality": {}, "size": {}, "latency": {}}
    (tmp_path / "out" / "runs" / "x" / "record.json").write_text(json.dumps(record))
    line = [*flags, f"outputs={tmp_path / 'out'}"]
    assert main([*line, "tracking=csv"]) == 1
    assert capsys.readouterr().err == "tracking: a dashboard is one of Weights & Biases; choose tracking=wandb\n"
    server.silent_from = "/healthz"
    started = time.monotonic()
    assert main(line) == 1 and time.monotonic() - started < 6
    assert re.fullmatch(r"http://127.0.0.1:\d+ does not answer; try again when it does\n", capsys.readouterr().err)
    monkeypatch.delenv("WANDB_API_KEY")
    assert main(line) == 1
    assert re.fullmatch(r"there is no key for http://\S+: `wandb login` or WANDB_API_KEY .*\n", capsys.readouterr().err)


def test_without_the_extra_it_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    for flags in ([], ["--dry-run"]):
        assert main(flags) == 1
        assert "pip install 'compress_exp[dashboard]'" in capsys.readouterr().err


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from compress_exp.dashboard.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    )
    code += "print({'hydra', 'torch', 'wandb', 'wandb_workspaces'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CONF.parent, check=True)
    assert "--push" in done.stdout and done.stdout.endswith("set()\n")

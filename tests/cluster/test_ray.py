"""The Ray launcher on a Ray cluster of two local nodes, one of which dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress_exp.config.schema import CONF
from hydra_plugins.compress_exp.ray import RayLauncher
from tests.cluster.app import stays
from tests.cluster.conftest import ROOT
from tests.cluster.slurm import wait_for

ray = pytest.mark.ray
installed = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'compress_exp[ray]'")
SIZES = {"num_cpus": 2, "object_store_memory": 80_000_000}
SMALL = [
    *("train.threads=1", "train.max_steps=5", "tracking=disabled", "model.vocabulary=320", "task.max_length=32"),
    *("model.architecture.hidden_size=32", "model.architecture.num_hidden_layers=2"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head of two CPUs."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=SIZES | {"include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def start(cluster: Any, log: Path, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    address = f"hydra.launcher.address='{cluster.address}'"
    line = [sys.executable, "-m", module, *arguments[:1], "hydra/launcher=ray", address, *arguments[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with log.open("wb") as out:
        return subprocess.Popen(line, env=environment, stdout=out, stderr=out, cwd=ROOT)


@ray
@installed
def test_the_jobs_of_a_node_that_dies_run_again_on_another(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(**SIZES)
    jobs = [*(f"number={number} action=wait" for number in range(4)), "number=4 action=refuse", "number=5 action=fail"]
    process = start(cluster, tmp_path / "log", "tests.cluster.app", str(tmp_path), "--", *jobs)
    try:
        wait_for(lambda: all(stays(tmp_path, number) for number in range(4)), (tmp_path / "log").read_text, 60)
        cluster.remove_node(node, allow_graceful=False)
        (tmp_path / "go").touch()
        assert process.wait(120) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    returns = json.loads((tmp_path / "returns.json").read_text())
    assert returns[:4] == [{"number": number, "threads": 1} for number in range(4)]
    assert returns[4:] == ["UserError: task: this one is not allowed", "UserError: Unlucky: out of luck"]
    assert sorted(len(stays(tmp_path, number)) for number in range(4)) == [1, 1, 2, 2]
    assert stays(tmp_path, 0)[0]["place"] == str(ROOT)


@ray
@installed
def test_a_sweep_builds_on_the_cluster_what_is_shared_first(cluster: Any, tmp_path: Path) -> None:
    arguments = ["method=prune,finetune", "until=1", f"outputs={tmp_path}", *SMALL]
    process = start(cluster, tmp_path / "log", "compress_exp", "-m", *arguments)
    assert process.wait(180) == 0, (tmp_path / "log").read_text()
    rows = [json.loads(line) for line in (tmp_path / "artifacts" / "builds.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows][0] == "baseline"
    assert sorted(row["label"] for row in rows[1:]) == ["finetune", "prune/gradual"]
    assert len({row["pid"] for row in rows}) == 3


@ray
@installed
def test_an_address_without_a_cluster_is_one_sentence(tmp_path: Path) -> None:
    code = "import sys; from compress_exp.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["-m", "hydra/launcher=ray", "hydra.launcher.address='127.0.0.1:1'", f"outputs={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 1
    assert "hydra.launcher.address: no Ray cluster answers at '127.0.0.1:1'" in done.stdout + done.stderr


def test_the_preset_sets_every_key() -> None:
    preset = yaml.safe_load((CONF / "hydra" / "launcher" / "ray.yaml").read_text())
    assert {name for name in preset if not name.startswith("_")} == {item.name for item in fields(RayLauncher)}

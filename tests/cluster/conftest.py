"""A SLURM of the tests' own, and parents that launch on it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compress_exp.config.schema import CONF
from tests.cluster.slurm import Cluster, why_not

ROOT = CONF.parent
Parent = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of four CPUs each, taken down whatever happens."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    root = Path(tempfile.mkdtemp(prefix="slurm"))
    cluster = Cluster(root, nodes=2, cpus=4)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def parent(cluster: Cluster) -> Iterator[Parent]:
    """`parent(log, module, argument, …)` starts `python -m …` on the cluster; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", *arguments]
        environment = cluster.environment | {"PYTHONPATH": str(ROOT)}
        with log.open("ab") as out:
            started.append(subprocess.Popen(line, env=environment, stdout=out, stderr=out, cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
    cluster.command("scancel", "--user=root")

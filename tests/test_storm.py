"""A sweep under fire: processes killed at random moments, the same command again and again, and nothing lost.

`STORM_SEED=7 pytest tests/test_storm.py -s` repeats a storm; `STORM_KILLS` says how many kills it has.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from compress_exp.outputs.store import damage
from tests.test_end_to_end import ENVIRONMENT, ROOT, assert_same_artifacts, command, records

GRID = ["-m", "method=prune,quant", "seed=0,1", "train.max_steps=40", "train.checkpoint_steps=3"]
STORM = ["hydra/launcher=local_processes", "hydra.launcher.n_jobs=4", "lease_seconds=20", "tracking=csv"]
KILLS = int(os.environ.get("STORM_KILLS", "30"))


def start(outputs):
    log = (outputs.parent / "log").open("a")
    return subprocess.Popen(command(outputs, *GRID, *STORM), cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)


def victim(chance, sweep):
    """One of the processes below the sweep, now and then the sweep itself; None while it has none below."""
    below = psutil.Process(sweep.pid).children(recursive=True)
    return below and (chance.choice(below) if chance.random() < 0.8 else psutil.Process(sweep.pid)) or None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("calm") / "outputs"
    subprocess.run(command(outputs, *GRID, "until=1"), cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)
    return outputs


def verify(outputs, undisturbed):
    """Everything is there, once, whole, and the report agrees."""
    assert_same_artifacts(undisturbed, outputs)
    found = records(outputs)
    assert len(found) == len({record["run"]["id"] for record in found}) == 4
    built = Counter(json.loads(line)["key"] for line in (outputs / "artifacts" / "builds.jsonl").open())
    assert max(built.values()) == 1
    for root in ("artifacts", "evaluations"):
        places = [place for place in (outputs / root).iterdir() if place.is_dir()]
        assert [place.name for place in places if damage(place)] == []
        assert [place.name for place in places if "." in place.name] == []
    assert list(outputs.rglob(".*.lease")) == []
    for path in outputs.rglob("*.json"):
        json.loads(path.read_text())
    command = [sys.executable, "-m", "compress_exp.report", str(outputs)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    assert len((outputs / "reports" / "table.csv").read_text().splitlines()) == 1 + 4 + 2


def test_thirty_kills_lose_nothing(tmp_path, undisturbed):
    seed = int(os.environ.get("STORM_SEED", random.SystemRandom().randrange(10**6)))
    print(f"STORM_SEED={seed}")
    chance, kills, places = random.Random(seed), 0, [tmp_path / "0" / "outputs"]
    places[0].parent.mkdir()
    sweep = start(places[-1])
    while kills < KILLS:
        time.sleep(chance.uniform(0.1, 1.5))
        if sweep.poll() is not None:
            if sweep.returncode == 0:
                places.append(tmp_path / f"{len(places)}" / "outputs")
                places[-1].parent.mkdir()
            sweep = start(places[-1])
            continue
        try:
            target, blow = victim(chance, sweep), chance.choice([signal.SIGTERM, signal.SIGKILL])
            if target is None:
                continue
            target.send_signal(blow)
        except psutil.NoSuchProcess:
            continue
        kills += 1
        print(f"kill {kills}: {blow.name} {'sweep' if target.pid == sweep.pid else 'below'}")
    for _ in range(10):
        if sweep.wait(600) == 0:
            break
        sweep = start(places[-1])
    assert sweep.returncode == 0, (places[-1].parent / "log").read_text()[-3000:]
    for outputs in places:
        verify(outputs, undisturbed)

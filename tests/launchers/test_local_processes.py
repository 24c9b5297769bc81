"""The launcher of several local processes, with a small task function of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.test_end_to_end import ENVIRONMENT, ROOT

APP = """
import json, os, pathlib, signal, sys, time
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra._internal.callbacks import Callbacks
from hydra.types import HydraContext, RunMode
from compress_exp.config.compose import loader_of
from hydra_plugins.compress_exp.local_processes import LocalProcessesLauncher

def task(config):
    place = pathlib.Path(config.outputs)
    (place / f"{config.seed}.json").write_text(json.dumps(
        {"pid": os.getpid(), "threads": config.train.threads, "began": time.time()}))
    if config.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == 2:
        raise ValueError("two is unlucky")
    if config.seed == 9:
        time.sleep(600)

if __name__ == "__main__":
    loader = loader_of()
    hydra = Hydra(task_name="app", config_loader=loader)
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)
    root = loader.load_configuration("config", [f"outputs={sys.argv[1]}"], RunMode.MULTIRUN)
    launcher = LocalProcessesLauncher(2)
    context = HydraContext(config_loader=loader, callbacks=Callbacks(root))
    launcher.setup(hydra_context=context, task_function=task, config=root)
    for job in launcher.launch([[f"outputs={sys.argv[1]}", f"seed={seed}"] for seed in sys.argv[2].split(",")], 0):
        print(job.status.name, job._return_value)
"""


def start(tmp_path, seeds):
    (tmp_path / "app.py").write_text(APP)
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "app.py"), str(tmp_path), seeds]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def told(path):
    while not path.exists() or not path.read_text():
        time.sleep(0.05)
    return json.loads(path.read_text())


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_job_that_dies_and_one_that_fails_take_no_other_along(tmp_path):
    out, _ = start(tmp_path, "0,1,2,3").communicate(timeout=120)
    assert out.splitlines()[-4:] == [
        "COMPLETED None",
        "FAILED its process ended (SIGKILL); the same command goes on from there",
        "FAILED ValueError: two is unlucky",
        "COMPLETED None",
    ]
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {json.loads((tmp_path / f"{seed}.json").read_text())["threads"] for seed in range(4)} == {share}
    assert len({json.loads((tmp_path / f"{seed}.json").read_text())["pid"] for seed in range(4)}) == 4


def test_jobs_end_with_the_command_however_it_ends(tmp_path: Path):
    for number in (signal.SIGTERM, signal.SIGKILL):
        place = tmp_path / number.name
        place.mkdir()
        process = start(place, "9")
        pid = told(place / "9.json")["pid"]
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
        until = time.monotonic() + 20
        while not gone(pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert gone(pid)

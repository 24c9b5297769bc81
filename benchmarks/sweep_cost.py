"""What a sweep costs beside its runs: recognising finished ones, and memory and time of trivial jobs.

    python benchmarks/sweep_cost.py [RUNS]

Runs are made up: the record of one real run is copied under the names of the others. Times are wall-clock seconds of
the whole command, imports included.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from hydra import compose, initialize_config_dir

from compress_exp.cli import identify
from compress_exp.config import CONF

COMMON = ["train.max_steps=2", "train.threads=1", "tracking=disabled"]


def run(outputs: Path, *arguments: str) -> float:
    """Seconds of one command."""
    started = time.monotonic()
    command = [sys.executable, "-m", "compress_exp", *arguments, *COMMON, f"outputs={outputs}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def pretend(outputs: Path, seeds: range) -> None:
    """Copy the one record there under the names that other seeds would have."""
    (path,) = (outputs / "runs").glob("*/record.json")
    record = json.loads(path.read_text())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for seed in seeds:
            asked = identify(compose("config", [f"seed={seed}", *COMMON]))
            own = copy.deepcopy(record)
            own["run"] |= {"id": asked.run, "name": asked.name, "seed": seed}
            directory = outputs / "runs" / asked.name
            directory.mkdir(exist_ok=True)
            (directory / "record.json").write_text(json.dumps(own))


def resident(outputs: Path, launcher: str, jobs: int) -> list[float]:
    """Resident megabytes of the sweep's process at the start of each trivial job."""
    job = ["-m", f"seed=range(0,{jobs})", "until=baseline", f"hydra/launcher={launcher}"]
    command = [sys.executable, "-m", "compress_exp", *job, *COMMON, f"outputs={outputs}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    watched = psutil.Process(process.pid)
    sizes = [watched.memory_info().rss / 1e6 for line in process.stdout if line.startswith("[")]
    assert process.wait() == 0
    return sizes


def main(runs: int) -> None:
    """Print the growth curves."""
    with tempfile.TemporaryDirectory() as place:
        sizes = resident(Path(place), "basic", 20)
        shown = " ".join(f"{size:.0f}" for size in sizes)
        print(f"resident MB at the start of each of 20 trivial jobs in one process: {shown}")
        print(f"growth after the third: {100 * (sizes[-1] / sizes[3] - 1):.1f} %", flush=True)
    with tempfile.TemporaryDirectory() as place:
        one = ["hydra/launcher=local_processes", "hydra.launcher.n_jobs=1", "plan=true"]
        few, many = (run(Path(place), "-m", f"seed=range(0,{jobs})", *one) for jobs in (4, 24))
        print(f"local_processes, one at once: {(many - few) / 20:.2f} s for each job that only plans", flush=True)
    with tempfile.TemporaryDirectory() as place:
        outputs = Path(place)
        run(outputs, "seed=0")
        pretend(outputs, range(1, runs))
        print("finished runs   first time   from sweep.json")
        for count in (runs // 8, runs // 4, runs // 2, runs):
            seeds = f"seed=range(0,{count})"
            print(f"{count:13d}   {run(outputs, '-m', seeds):8.1f} s   {run(outputs, '-m', seeds):8.1f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)

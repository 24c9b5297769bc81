"""What a sweep costs beside its runs: recognising finished ones, and memory and time of trivial jobs.

    python benchmarks/sweep_cost.py [RUNS]

Runs are made up: the record of one real run is copied under the names of the others. Times are wall-clock seconds of
the whole command, imports included. `--smallest` takes few jobs and runs, of a tiny model that is hardly timed.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from hydra import compose, initialize_config_dir

from compress_exp.cli.main import identify
from compress_exp.config.schema import CONF

COMMON = ["train.max_steps=2", "train.threads=1", "tracking=disabled"]
SMALLEST = [
    *("method=finetune", "model.architecture.hidden_size=32", "model.architecture.num_hidden_layers=1"),
    *("hardware=cpu_openvino", "hardware.rounds=5", "hardware.batch_sizes=[1]", "hardware.lengths=[8]"),
]


class Commands:
    """Commands with settings in common."""

    def __init__(self, common: list[str]) -> None:
        self.common = common

    def arguments(self, outputs: Path, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "compress_exp", *arguments, *self.common, f"outputs={outputs}"]

    def run(self, outputs: Path, *arguments: str) -> float:
        """Seconds of one command."""
        started = time.monotonic()
        subprocess.run(self.arguments(outputs, *arguments), check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started

    def pretend(self, outputs: Path, seeds: range) -> None:
        """Copy the one record there under the names that other seeds would have."""
        (path,) = (outputs / "runs").glob("*/record.json")
        record = json.loads(path.read_text())
        with initialize_config_dir(str(CONF), version_base="1.3"):
            for seed in seeds:
                asked = identify(compose("config", [f"seed={seed}", *self.common]))
                own = copy.deepcopy(record)
                own["run"] |= {"id": asked.run, "name": asked.name, "seed": seed}
                directory = outputs / "runs" / asked.name
                directory.mkdir(exist_ok=True)
                (directory / "record.json").write_text(json.dumps(own))

    def resident(self, outputs: Path, launcher: str, jobs: int) -> list[float]:
        """Resident megabytes of the sweep's process at the start of each trivial job."""
        job = ["-m", f"seed=range(0,{jobs})", "until=baseline", f"hydra/launcher={launcher}"]
        process = subprocess.Popen(self.arguments(outputs, *job), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        watched = psutil.Process(process.pid)
        sizes = [watched.memory_info().rss / 1e6 for line in process.stdout if line.startswith("[")]
        assert process.wait() == 0
        return sizes


def main() -> None:
    """Print the growth curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=int, nargs="?", default=200)
    parser.add_argument("--smallest", action="store_true")
    arguments = parser.parse_args()
    commands = Commands([*SMALLEST, *COMMON] if arguments.smallest else COMMON)
    jobs, few, many, runs = (4, 1, 2, 2) if arguments.smallest else (20, 4, 24, arguments.runs)
    with tempfile.TemporaryDirectory() as place:
        sizes = commands.resident(Path(place), "basic", jobs)
        shown = " ".join(f"{size:.0f}" for size in sizes)
        print(f"resident MB at the start of each of {jobs} trivial jobs in one process: {shown}")
        print(f"growth after the third: {100 * (sizes[-1] / sizes[3] - 1):.1f} %", flush=True)
    with tempfile.TemporaryDirectory() as place:
        one = ["hydra/launcher=local_processes", "hydra.launcher.n_jobs=1", "plan=true"]
        took = {count: commands.run(Path(place), "-m", f"seed=range(0,{count})", *one) for count in (few, many)}
        each = (took[many] - took[few]) / (many - few)
        print(f"local_processes, one at once: {each:.2f} s for each job that only plans", flush=True)
    with tempfile.TemporaryDirectory() as place:
        outputs = Path(place)
        commands.run(outputs, "seed=0")
        commands.pretend(outputs, range(1, runs))
        print("finished runs   first time   from sweep.json")
        for count in sorted({max(1, runs // share) for share in (8, 4, 2, 1)}):
            first, again = (commands.run(outputs, "-m", f"seed=range(0,{count})") for _ in range(2))
            print(f"{count:13d}   {first:8.1f} s   {again:8.1f} s", flush=True)


if __name__ == "__main__":
    main()

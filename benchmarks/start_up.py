"""How long the command line takes to answer, and what is spent on imports: help, refusals, a plan, a run of two steps.

    python benchmarks/start_up.py [--rounds 5] [--beside CHECKOUT]

Prints seconds of whole processes and, which other work on the machine disturbs less, CPU seconds (user and system) of
them and of the processes that they start: the least and the median. "little timed" is the run without most of its
measuring, so that what is left is mainly imports. `--beside` runs another checkout's code in turns with this one's,
with this Python; `--smallest` leaves out the runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = ["method=finetune", "train.max_steps=2", "train.threads=1", "tracking=disabled"]
CASES = {
    "--help": ["--help"],
    "unknown choice": ["method=prun"],
    "unknown key": ["method.prune.sparsty=0.5"],
    "value out of range": ["method.prune.sparsity=1.5"],
    "plan": ["method=quant", "plan=true"],
    "two steps": STEPS,
    "little timed": [*STEPS, "hardware.rounds=5", "hardware.batch_sizes=[1]", "hardware.lengths=[32]"],
}
REFUSED = ("unknown choice", "unknown key", "value out of range")
RUNS = ("two steps", "little timed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", type=Path, help="another checkout, in turns with this one")
    parser.add_argument("--smallest", action="store_true")
    arguments = parser.parse_args()
    checkouts = [ROOT] if arguments.beside is None else [arguments.beside.resolve(), ROOT]
    rounds = 1 if arguments.smallest else arguments.rounds
    turns = range(rounds if arguments.smallest else rounds + 1)  # the first fills the caches
    print(f"{'':20} {'seconds':>8}  {'CPU seconds: least':>20} {'median':>8}")
    for name in CASES:
        if arguments.smallest and name in RUNS:
            continue
        taken = [[once(name, checkout) for checkout in checkouts] for _ in turns][-rounds:]
        for index, checkout in enumerate(checkouts):
            wall, cpu = zip(*(turn[index] for turn in taken), strict=True)
            figures = f"{statistics.median(wall):8.2f}  {min(cpu):20.2f} {statistics.median(cpu):8.2f}"
            where = f"   {checkout}" if len(checkouts) > 1 else ""
            print(f"{name:20} {figures}   load {os.getloadavg()[0]:.1f}{where}", flush=True)


def once(name: str, checkout: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one command, started with nothing built."""
    with tempfile.TemporaryDirectory() as outputs:
        arguments = CASES[name] if name == "--help" else [*CASES[name], f"outputs={outputs}"]
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "compress_exp", *arguments],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == (1 if name in REFUSED else 0), f"{name} ended with exit code {process.returncode}"
    return seconds, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()

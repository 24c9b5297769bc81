"""How long the command line takes to answer: help, an unknown choice, an unknown key, a value out of range.

    python benchmarks/start_up.py [--rounds 5]

Prints the median and the range of whole processes, in seconds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

CASES = {
    "--help": ["--help"],
    "unknown choice": ["method=prun"],
    "unknown key": ["method.prune.sparsty=0.5"],
    "value out of range": ["method.prune.sparsity=1.5"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for name, arguments in CASES.items():
        seconds = [once(arguments) for _ in range(rounds + 1)][1:]
        print(f"{name:20} {statistics.median(seconds):5.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


def once(arguments: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "compress_exp", *arguments], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    assert done.returncode == (0 if arguments == ["--help"] else 1), done.stderr
    return seconds


if __name__ == "__main__":
    main()

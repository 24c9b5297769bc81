"""One tiny training as a process of its own, for tests that send it real signals.

Usage: python -m tests.training.preempted_child DATA DIRECTORY LISTENER [OVERRIDE …]; it trains once its input
is closed, and says every step on its output.
LISTENER: who had the signals before: `nobody`, `submitit` (requeues on SIGUSR2 and exits, ignores SIGTERM), `replies`
(hears SIGUSR2 and lets the training go on).
"""

from __future__ import annotations

import signal
import sys
import time
from importlib import import_module
from pathlib import Path

from compress_exp.experiment.build import build_baseline
from tests.experiments import planned

STEPS = 40


def say(text: str) -> None:
    print(text, flush=True)


def requeue(number: int, frame: object) -> None:
    say(f"requeued after {signal.Signals(number).name}")
    sys.exit(-1)


def bypass(number: int, frame: object) -> None:
    say(f"bypassed {signal.Signals(number).name}")


def beat(step: int, steps: int) -> None:
    say(f"step {step}")
    time.sleep(0.03)


def main(data: str, directory: str, listener: str, *overrides: str) -> None:
    settings = (f"train.max_steps={STEPS}", "train.checkpoint_steps=1000", *overrides)
    plan = planned("bert", Path(data), "method=finetune", *settings)
    import_module("compress_exp.training.trainer")
    if listener != "nobody":
        signal.signal(signal.SIGUSR2, requeue if listener == "submitit" else bypass)
        signal.signal(signal.SIGTERM, bypass)
    sys.stdin.read()
    before = [signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)]
    try:
        build_baseline(plan, Path(directory), beat)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    finally:
        restored = [signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)]
        say("handlers restored" if restored == before else "handlers changed")
    say("trained")


if __name__ == "__main__":
    main(*sys.argv[1:])

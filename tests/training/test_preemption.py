"""Real signals to real processes: what was done is on disk, and the rest of the training does not notice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compress_exp.experiment.build import build_baseline
from compress_exp.outputs.lease import LeaseLost
from compress_exp.outputs.store import STATE
from compress_exp.training.checkpoint import CHECKPOINT
from compress_exp.training.preemption import Preemption
from tests.experiments import planned
from tests.training.preempted_child import STEPS

ROOT = Path(__file__).resolve().parents[2]
FILES = ("model.safetensors", "config.json", "history.csv")
SCENARIOS = {  # who listened before, the signals, exit code, what is said at the end
    "terminated": ("nobody", [signal.SIGTERM], 143, None),
    "preempted": ("submitit", [signal.SIGTERM, signal.SIGUSR2], 255, "requeued after SIGUSR2"),
    "interrupted": ("nobody", [signal.SIGINT], 130, "interrupted"),
    "heard and ignored": ("replies", [signal.SIGUSR2, signal.SIGTERM], 0, "trained"),
}


def start(data, directory, listener, *overrides):
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.training.preempted_child", str(data), str(directory), listener, *overrides]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def read_until(process, wanted):
    """Lines up to and with the wanted one."""
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if lines[-1] == wanted:
            return lines
    raise AssertionError(f"{wanted!r} was not said: {lines}\n{process.stderr.read()}")


def saved_step(state):
    return torch.load(state / CHECKPOINT, weights_only=True)["global_step"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("preempted")


@pytest.fixture(scope="module")
def undisturbed(place, data):
    directory = place / "undisturbed"
    directory.mkdir()
    build_baseline(planned("bert", data, "method=finetune", f"train.max_steps={STEPS}"), directory)
    return directory


@pytest.fixture(scope="module")
def started(place, data):
    """All the processes at once: most of their time is imports."""
    processes = {name: start(data, place / name, listener) for name, (listener, *_) in SCENARIOS.items()}
    yield processes
    for process in processes.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_signal_at_any_step_loses_nothing(name, started, undisturbed, place, data):
    _, signals, code, last = SCENARIOS[name]
    process, directory = started[name], place / name
    step = random.Random(name).randrange(1, STEPS - 8)
    process.stdin.close()
    process.stdin = None
    lines = read_until(process, f"step {step}")
    for number in signals[:-1]:
        process.send_signal(number)
        lines += read_until(process, f"bypassed {number.name}")
    process.send_signal(signals[-1])
    rest, errors = process.communicate(timeout=240)
    lines += rest.split("\n")
    assert process.returncode == code, errors
    assert "handlers restored" in lines
    assert last is None or last in lines
    for number in signals:
        assert f"{number.name} at step" in errors
    done = max(int(line.removeprefix("step ")) for line in lines if line.startswith("step "))
    if code:
        assert saved_step(directory / STATE) == done <= step + 2
    else:
        assert {"bypassed SIGUSR2", "bypassed SIGTERM"} <= set(lines)
        assert done == STEPS
    if code:
        build_baseline(planned("bert", data, "method=finetune", f"train.max_steps={STEPS}"), directory)
    for file in FILES:
        assert (directory / file).read_bytes() == (undisturbed / file).read_bytes(), file


def test_outside_of_training_signals_reach_who_had_them(data, tmp_path):
    """As while data is tokenized, or while a result is measured."""
    heard = []

    def listener(number, frame):
        heard.append(number)

    before = signal.signal(signal.SIGUSR2, listener)
    try:
        plan = planned("bert", data, "method=finetune", "train.max_steps=2")
        steps = []

        def beat(step, steps_in_all):
            steps.append((step, len(heard)))
            if step == 1:
                signal.raise_signal(signal.SIGUSR2)

        signal.raise_signal(signal.SIGUSR2)
        build_baseline(plan, tmp_path, beat)
        signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert steps == [(1, 1), (2, 2)]
    assert len(heard) == 3


def test_a_signal_that_no_boundary_follows_is_sent_again():
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert preemption.noted == [signal.SIGUSR2]
            assert heard == []
        assert heard == [signal.SIGUSR2]
        with pytest.raises(ValueError, match="of training"), Preemption():
            os.kill(os.getpid(), signal.SIGUSR2)
            raise ValueError("of training")
        assert heard == [signal.SIGUSR2] * 2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_preemption_that_nobody_listens_to_ends_the_process():
    with pytest.raises(SystemExit) as ended, Preemption() as preemption:
        preemption.answer([signal.SIGUSR2], 3)
    assert ended.value.code == 128 + signal.SIGUSR2


def test_the_second_interrupt_comes_at_once():
    with pytest.raises(KeyboardInterrupt), Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.take() == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGINT)
            assert preemption.noted == []
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_lost_lease_ends_the_training_before_anything_is_written(data, tmp_path):
    def beat(step, steps):
        if step == 2:
            raise LeaseLost("taken over")

    plan = planned("bert", data, "method=finetune", "train.max_steps=4", "train.checkpoint_steps=1")
    with pytest.raises(LeaseLost):
        build_baseline(plan, tmp_path, beat)
    assert saved_step(tmp_path / STATE) == 1


def test_a_directory_that_another_process_took_over_ends_the_training(data, tmp_path):
    directory = tmp_path / "taken"
    directory.mkdir()

    def beat(step, steps):
        if step == 2:
            (directory / STATE).rename(tmp_path / "away")

    plan = planned("bert", data, "method=finetune", "train.max_steps=4", "train.checkpoint_steps=1")
    with pytest.raises(FileNotFoundError):
        build_baseline(plan, directory, beat)
    assert not (directory / STATE).exists()
    assert saved_step(tmp_path / "away") == 1

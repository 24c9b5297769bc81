"""Two CPU processes train as one does, and die as one does.

Where one and two processes are compared, weights may differ by TOLERANCE: float32 sums over rows are added in another
order, and Adam makes steps of the size of the learning rate (7e-4 and 2e-3 here) also of gradients that are little
more than rounding. A wrong weighting of the ranks moves weights by more than a step, a hundred times the tolerance.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore, destroy_process_group, is_initialized

from compress_exp.config.checks import UserError
from compress_exp.config.train import TrainConfig
from compress_exp.experiment.build import build_baseline, run_stage
from compress_exp.experiment.teacher import keep_answers
from compress_exp.formats.artifact import load
from compress_exp.losses.base import Term
from compress_exp.losses.criteria import means
from compress_exp.outputs.progress import unheard
from compress_exp.outputs.store import STATE
from compress_exp.parallel import ranks
from compress_exp.parallel.team import LOCALHOST, RankLost, check_devices, join, team
from tests.experiments import planned, write_data
from tests.parallel.ranks_child import SETTINGS as CUT
from tests.parallel.ranks_child import cut
from tests.training.preempted_child import STEPS
from tests.training.test_preemption import FILES, read_until, saved_step, start

TOLERANCE = 2e-5
ODD = "train.batch_size=7"
TWO = "train.devices=2"
NO_DROPOUT = [f"+model.architecture.{name}_pdrop=0.0" for name in ("resid", "embd", "attn")]


def baseline(data, directory, *overrides, beat=unheard):
    directory.mkdir(exist_ok=True)
    build_baseline(planned("bert", data, "method=finetune", f"train.max_steps={STEPS}", *overrides), directory, beat)
    return directory


def stage(family, data, dense, directory, *overrides, answers=None):
    plan = planned(family, data, ODD, *overrides)
    directory.mkdir()
    run_stage(plan, 0, dense(plan), dense(plan), directory, answers=answers)
    return load_file(directory / "model.safetensors"), history(directory)


def history(directory):
    with (directory / "history.csv").open() as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def assert_close(one, two):
    (weights, curves), (other_weights, other_curves) = one, two
    assert weights.keys() == other_weights.keys()
    for name, weight in weights.items():
        difference = float((weight.double() - other_weights[name].double()).abs().max())
        assert difference <= TOLERANCE, name
    assert len(curves) == len(other_curves)
    for row, other in zip(curves, other_curves, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Odd batches of seven rows, and a last one of a single row, which all ranks take."""
    return write_data(tmp_path_factory.mktemp("odd"), rows=43)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def undisturbed(place, data):
    return baseline(data, place / "two", ODD, TWO)


def test_a_classifier_of_two_processes_is_that_of_one(undisturbed, place, data):
    one = baseline(data, place / "one", ODD)
    results = [(load_file(path / "model.safetensors"), history(path)) for path in (one, undisturbed)]
    assert_close(*results)


def test_a_pruned_language_model_of_two_processes_is_that_of_one(place, data, dense):
    settings = ("method=prune", "train.max_steps=12", *NO_DROPOUT)
    one = stage("gpt2", data, dense, place / "prune-1", *settings)
    two = stage("gpt2", data, dense, place / "prune-2", *settings, TWO)
    assert_close(one, two)
    masks = [name for name in one[0] if one[0][name].dtype == torch.uint8]
    assert masks
    assert all(torch.equal(one[0][name], two[0][name]) for name in masks)


def test_two_processes_remove_what_one_removes(place, data, dense):
    settings = ("method=prune/structured", "method.prune.sparsity=0.4", "train.max_steps=2", *NO_DROPOUT)
    one = stage("gpt2", data, dense, place / "structured-1", *settings)
    two = stage("gpt2", data, dense, place / "structured-2", *settings, TWO)
    assert_close(one, two)
    heads = {tensor.shape for name, tensor in one[0].items() if name.endswith("attn.c_proj.weight")}
    assert len(heads) == 2


def test_two_processes_decide_what_one_decides(data, dense, tmp_path):
    pruning = [f"prune/{name}" for name in ("gradient", "snip", "taylor", "heads", "neurons")]
    variants = [*pruning, "quant/gptq"]
    base = dense(planned("gpt2", data, "method=prune", *CUT))
    one = [cut(variant, data, base, tmp_path / "one").model for variant in variants]
    store = TCPStore(LOCALHOST, 0, 2, True, wait_for_workers=False)
    places = [str(store.port), str(data), str(base), str(tmp_path / "two")]
    root = Path(__file__).parents[2]
    other = subprocess.Popen([sys.executable, "-m", "tests.parallel.ranks_child", *places, *variants], cwd=root)
    try:
        while not store.check(["ready"]):
            assert other.poll() is None
            time.sleep(0.02)
        join(store, 0, 2)
        two = [cut(variant, data, base, tmp_path / "two").model for variant in variants]
        destroy_process_group()
        assert other.wait(60) == 0
    finally:
        other.kill()
        other.wait()
        if is_initialized():
            destroy_process_group()
    assert_rounded_alike(one.pop(), two.pop())
    for variant, alone, shared in zip(pruning, one, two, strict=True):
        weights, shared_weights = alone.state_dict(), shared.state_dict()
        assert {name: tensor.shape for name, tensor in weights.items()} == {
            name: tensor.shape for name, tensor in shared_weights.items()
        }
        scores = {name: weights[name.replace(".factor", ".score")] for name in weights if name.endswith(".factor")}
        least = {name: float(own[weights[name] != 0].min()) for name, own in scores.items()}  # that is kept
        for name, tensor in weights.items():
            if name.endswith(".score"):
                scale = float(tensor.abs().max())
                torch.testing.assert_close(shared_weights[name], tensor, rtol=1e-3, atol=1e-5 * scale)
            elif name.endswith(".factor"):
                # Two halves of a batch add in another order: what lies at the threshold may fall to the other side.
                moved = scores[name][shared_weights[name] != tensor]
                threshold = min(least.values()) if variant == "prune/snip" else least[name]  # it compares all tensors
                assert len(moved) <= 2 and bool(((moved - threshold).abs() <= 1e-3 * threshold).all()), (variant, name)
            else:
                assert torch.equal(shared_weights[name], tensor), (variant, name)
        gone = sum(int((mask == 0).sum()) for name, mask in weights.items() if name.endswith(".factor"))
        assert gone > 0 or alone.num_parameters() < 0.85 * load(base).num_parameters()


def assert_rounded_alike(alone, shared):
    """The first weight: one code at the middle between two, and what follows it in its row, may fall otherwise."""
    first, other = (model.transformer.h[0].attn.c_attn for model in (alone, shared))
    grids, other_grids = (module.parametrizations.weight[0] for module in (first, other))
    assert torch.equal(grids.scales, other_grids.scales) and torch.equal(grids.zeros, other_grids.zeros)
    rows = (first.weight != other.weight).any(0)
    assert len(rows) == 96 and int(rows.sum()) <= 2


def test_observed_ranges_of_two_processes_are_those_of_one(place, data, dense):
    """At a learning rate of zero the same weights see the same rows: the ranges come from calibration and training."""
    settings = ("method=quant", "train.max_steps=4", "train.learning_rate=0")
    one, _ = stage("bert", data, dense, place / "quant-1", *settings)
    two, _ = stage("bert", data, dense, place / "quant-2", *settings, TWO)
    grids = [name for name in one if name.endswith("input_scale")]
    assert len(grids) > 10
    for name in grids:
        assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-6), name
    packed = [name for name in one if one[name].dtype in (torch.int8, torch.uint8)]
    assert all(torch.equal(one[name], two[name]) for name in packed)


class Requeued(Exception):
    pass


def test_two_processes_that_are_preempted_and_killed_end_bit_identical(undisturbed, place, data):
    directory = place / "disturbed"
    directory.mkdir()

    def requeue(number, frame):
        raise Requeued

    def beat(step, steps):
        if step == 5:  # as when a scheduler signals every process of a job
            for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
                other_process().send_signal(number)
        if step == 9:
            os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(Requeued):
            baseline(data, directory, ODD, TWO, beat=beat)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert saved_step(directory / STATE) == 9

    process = start(data, directory, "nobody", ODD, TWO, "train.checkpoint_steps=4")
    process.stdin.close()
    process.stdin = None
    read_until(process, "step 22")
    others = psutil.Process(process.pid).children()
    process.kill()
    process.communicate(timeout=240)
    assert saved_step(directory / STATE) in (20, 24)
    assert_gone(others)

    baseline(data, directory, ODD, TWO)
    for file in FILES:
        assert (directory / file).read_bytes() == (undisturbed / file).read_bytes(), file


def other_process():
    return next(child for child in psutil.Process().children() if "compress_exp.experiment.rank" in child.cmdline())


def assert_gone(processes):
    assert processes
    until = time.monotonic() + 30
    while alive := [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < until, alive
        time.sleep(0.05)


def test_a_lost_process_ends_the_training_in_one_sentence(place, data):
    directory = place / "lost"
    directory.mkdir()

    def beat(step, steps):
        if step == 3:
            other_process().kill()

    plan = planned("bert", data, "method=finetune", "train.max_steps=50", TWO)
    with pytest.raises(
        RankLost, match=r"^train\.devices: process 2 of 2 was killed .*goes on from the last checkpoint$"
    ):
        build_baseline(plan, directory, beat)
    assert ranks.world() == 1


def test_a_process_that_cannot_start_says_why():
    with pytest.raises(RankLost, match=r"process 2 of 2 failed \(.*seed"), team(2, lambda: {"config": {}}):
        raise AssertionError("never here")


def test_more_devices_than_there_are_is_refused(monkeypatch):
    check_devices(4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(2)
    with pytest.raises(UserError, match=r"^train\.devices: 4 is more than the 2 GPUs of this host"):
        check_devices(4)


def test_the_number_of_devices_is_in_no_key():
    budgets = [TrainConfig(epochs=1, learning_rate=1e-3, batch_size=4, devices=devices) for devices in (1, 2)]
    assert budgets[0].identity() == budgets[1].identity()


def test_one_process_shares_nothing():
    batch = {"input_ids": torch.arange(6).view(3, 2), "labels": torch.arange(3)}
    assert ranks.own_rows(batch) is batch
    assert (ranks.rank(), ranks.world(), ranks.from_zero(7)) == (0, 1, 7)
    value = torch.tensor(3.0)
    assert all(reduce(value) is value for reduce in (ranks.all_min, ranks.all_max, ranks.all_sum, ranks.all_mean))


def test_a_rank_without_a_position_adds_nothing(monkeypatch):
    monkeypatch.setattr(ranks, "all_mean", lambda counts: counts + 3.5)  # the other rank of two has seven
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits, torch.zeros(0, dtype=torch.long), reduction="sum")
    found = means({"hard": Term(loss, 0), "soft": Term(torch.tensor(7.0), 0)})
    assert found["hard"].item() == 0.0 and found["soft"].item() == 2.0
    found["hard"].backward()
    assert logits.grad is not None


def test_a_student_of_hidden_states_and_its_projection_of_two_processes_are_those_of_one(place, data, dense):
    narrow = ["model.architecture.n_embd=16", "model.architecture.n_head=2"]
    student = dense(planned("gpt2", data, "method=finetune", *NO_DROPOUT, *narrow))
    settings = ("method=distill/hidden", f"method.distill.student={student}", "train.max_steps=6", *NO_DROPOUT)
    one = stage("gpt2", data, dense, place / "hidden-1", *settings)
    two = stage("gpt2", data, dense, place / "hidden-2", *settings, TWO)
    assert_close(one, two)
    assert {"hidden_states", "soft_targets_hard", "soft_targets_soft"} <= one[1][0].keys()
    assert one[0]["transformer.h.0.ln_1.weight"].shape == (16,)  # the teacher has 32
    assert not [name for name in one[0] if "projection" in name]


def test_two_processes_learn_from_several_teachers_what_one_learns(place, data, dense):
    """One teacher reads its own features, so each rank has to name its own rows; the last batch is a single row."""
    other = dense(planned("bert", data, "method=finetune", "model.vocabulary=300"))
    settings = ("method=finetune", "loss=soft_targets", f"teacher=[baseline,{other}]", "train.max_steps=7")
    one = stage("bert", data, dense, place / "teachers-1", *settings)
    two = stage("bert", data, dense, place / "teachers-2", *settings, TWO)
    assert_close(one, two)


def test_two_processes_learn_from_kept_answers_what_one_learns(place, data, dense):
    """Targets of different lengths, so that the ranks have other numbers of positions."""
    settings = ("method=finetune", "loss=soft_targets", "teacher_cache.mode=always", "train.max_steps=7")
    settings += ("model.architecture.dropout_rate=0.0",)
    plan, answers = planned("t5", data, *settings), place / "answers"
    answers.mkdir()
    keep_answers(plan, 0, dense(plan), dense(plan), answers)
    one = stage("t5", data, dense, place / "answers-1", *settings, answers=answers)
    two = stage("t5", data, dense, place / "answers-2", *settings, TWO, answers=answers)
    assert_close(one, two)

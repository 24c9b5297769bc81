from __future__ import annotations

import math

import pytest

from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.schedules import SCHEDULES, sparsity_at
from tests.moments import at


def test_cubic_has_its_published_points():
    assert sparsity_at(0.0, 0.8, "cubic") == 0.0
    assert sparsity_at(0.5, 0.8, "cubic") == pytest.approx(0.875 * 0.8)
    assert sparsity_at(1.0, 0.8, "cubic") == 0.8


# (1 − e^−2.5) / (1 − e^−5) = 1 / (1 + e^−2.5); 1 − √(1 − 0.75) = 0.5.
@pytest.mark.parametrize(
    ("schedule", "half"), [("linear", 0.375), ("exponential", 0.75 / (1 + math.exp(-2.5))), ("geometric", 0.5)]
)
def test_linear_exponential_and_geometric_have_their_values_by_hand(schedule, half):
    assert sparsity_at(0.0, 0.75, schedule) == 0.0
    assert sparsity_at(0.5, 0.75, schedule) == pytest.approx(half, rel=1e-12)
    assert sparsity_at(1.0, 0.75, schedule) == 0.75


def test_geometric_removes_the_same_share_of_what_is_left():
    left = [1 - sparsity_at(r / 5, 1 - 0.8**5, "geometric") for r in range(6)]
    assert left == pytest.approx([0.8**r for r in range(6)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_never_fall_and_land_on_the_target(schedule):
    values = [sparsity_at(p / 100, 0.7, schedule) for p in range(101)]
    assert values == sorted(values)
    assert values[0] == 0.0 and values[-1] == 0.7


@pytest.mark.parametrize("schedule", ["cubic", "exponential", "geometric"])
def test_every_increment_is_smaller_than_the_one_before(schedule):
    values = [sparsity_at(p / 50, 0.7, schedule) for p in range(51)]
    increments = [after - before for before, after in zip(values, values[1:], strict=False)]
    assert all(later < earlier for earlier, later in zip(increments, increments[1:], strict=False))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nothing_is_pruned_before_the_start_and_exactly_the_target_from_the_end_on(schedule, tiny, context, budget):
    method = MagnitudePruning(
        name="prune/x", train=budget, sparsity=0.5, schedule=schedule, start=0.2, end=0.7, scope="tensor"
    )
    model = method.prepare(tiny("bert"), context("bert"))
    weight = model.bert.encoder.layer[0].attention.self.query

    def zeros(progress: float) -> int:
        method.step(at(model, method.own_progress(progress)))
        return int((weight.weight == 0).sum())

    assert [zeros(progress) for progress in (0.05, 0.2)] == [0, 0]
    between = zeros(0.45)
    assert between == 512 if schedule == "one_shot" else 0 < between < 512
    assert [zeros(progress) for progress in (0.7, 0.71, 1.0)] == [512] * 3


def test_between_start_and_end_progress_is_linear_and_in_rounds_it_is_that_of_the_stage(budget):
    method = MagnitudePruning(name="prune/x", train=budget, sparsity=0.5, start=0.2, end=0.7)
    assert [method.own_progress(p) for p in (0.325, 0.45)] == pytest.approx([0.25, 0.5])
    at_once = MagnitudePruning(name="prune/x", train=budget, sparsity=0.5, start=0.5, end=0.5)
    assert [at_once.own_progress(p) for p in (0.499, 0.5)] == [0.0, 1.0]
    rounds = MagnitudePruning(name="prune/x", train=budget, sparsity=0.5, start=0.2, end=0.7, rounds=4)
    assert [rounds.own_progress(r / 4) for r in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]

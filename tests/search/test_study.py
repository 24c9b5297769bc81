"""The ask and tell loop on analytic objectives, with real storages."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from compress_exp.config.checks import UserError
from compress_exp.outputs.objectives import Objective, parse
from compress_exp.search.space import Choice, Number, Space
from compress_exp.search.storage import open_study, place
from compress_exp.search.study import OVERRIDES, REASON, SAMPLERS, Outcome, Search

CONFIG = OmegaConf.create({"x": 0, "y": 0, "z": 0})
SPACE = Space(
    {"z": "z=1"},
    {"x": Number("x", 0.0, 1.0, None, False), "y": Choice("y", ("a", "b"))},
    {"y": 0},
    lambda overrides: CONFIG,
)
OBJECTIVES = parse(["quality/retained", "size/artifact_bytes"])


class Killed(BaseException):
    """Stands for the end of the process."""


def evaluate(batch: Sequence[Sequence[str]]) -> list[Outcome]:
    outcomes = []
    for overrides in batch:
        values = dict(item.split("=") for item in overrides)
        x, bonus = float(values["x"]), 0.1 * (values["y"] == "b")
        quality = 1 - x**2 + bonus * (x - 0.5)
        outcomes.append(Outcome({"quality": {"retained": quality}, "size": {"artifact_bytes": 1e6 * (1 - x)}}))
    return outcomes


def search(
    outputs: Path, total: int = 13, parallel: int = 1, sampler: str = "tpe", seed: int = 0, space: Space = SPACE
) -> Search:
    directions = [str(item.direction) for item in OBJECTIVES]
    study = open_study(place(None, outputs, "s"), "s", directions, space.identity())
    return Search(study, space, OBJECTIVES, sampler, seed, total, parallel)


def alone() -> None:
    """No other process."""


def drawn(found: Search) -> list[list[str]]:
    return [trial.user_attrs[OVERRIDES] for trial in found.study.trials]


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and tuple(one) != tuple(other)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_pareto_set_is_that_of_brute_force(tmp_path: Path, sampler: str) -> None:
    found = search(tmp_path, 20, 4, sampler)
    found.run(evaluate, alone)
    points = [trial.values for trial in found.study.trials]
    assert len(points) == 20
    best = {tuple(point) for point in points if not any(dominates(other, point) for other in points)}
    assert {tuple(trial.values) for trial in found.pareto()} == best
    assert len(found.pareto()) == len({tuple(trial.user_attrs[OVERRIDES]) for trial in found.pareto()})


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_a_seed_decides_what_is_drawn_and_a_stop_changes_nothing(tmp_path: Path, sampler: str) -> None:
    undisturbed, other = search(tmp_path / "a", sampler=sampler), search(tmp_path / "b", sampler=sampler, seed=1)
    undisturbed.run(evaluate, alone)
    other.run(evaluate, alone)
    assert drawn(undisturbed) != drawn(other)
    for total in (4, 11, 13):
        search(tmp_path / "c", total, sampler=sampler).run(evaluate, alone)
    stopped = search(tmp_path / "c", sampler=sampler)
    assert drawn(stopped) == drawn(undisturbed)
    assert [trial.values for trial in stopped.study.trials] == [trial.values for trial in undisturbed.study.trials]


@pytest.mark.parametrize("parallel", [1, 3])
def test_what_a_killed_process_left_running_is_finished_with_what_it_drew(tmp_path: Path, parallel: int) -> None:
    seen: list[list[str]] = []

    def dying(batch: Sequence[Sequence[str]]) -> list[Outcome]:
        seen.extend(map(list, batch))
        if len(seen) >= 5:
            raise Killed
        return evaluate(batch)

    with pytest.raises(Killed):
        search(tmp_path, parallel=parallel).run(dying, alone)
    again = search(tmp_path, parallel=parallel)
    left = [trial.number for trial in again.study.trials if trial.state is TrialState.RUNNING]
    assert len(left) == parallel
    before = drawn(again)
    batches: list[list[list[str]]] = []
    again.run(lambda batch: batches.append(batch) or evaluate(batch), alone)  # type: ignore[func-returns-value]
    assert batches[0] == [before[number] for number in left]
    assert [trial.state for trial in again.study.trials] == [TrialState.COMPLETE] * 13
    assert drawn(again)[: len(before)] == before
    if parallel == 1:
        undisturbed = search(tmp_path / "other")
        undisturbed.run(evaluate, alone)
        assert drawn(again) == drawn(undisturbed)


def test_a_trial_that_was_killed_before_it_drew_anything_draws_then(tmp_path: Path) -> None:
    first = search(tmp_path, 3)
    first.study.ask()
    again = search(tmp_path, 3)
    again.run(evaluate, alone)
    assert [trial.state for trial in again.study.trials] == [TrialState.COMPLETE] * 3
    assert all(set(trial.params) == {"x", "y"} for trial in again.study.trials)


def test_the_total_is_of_the_study(tmp_path: Path) -> None:
    search(tmp_path, 5, 2).run(evaluate, alone)
    calls: list[int] = []

    def counted(batch: Sequence[Sequence[str]]) -> list[Outcome]:
        calls.append(len(batch))
        return evaluate(batch)

    search(tmp_path, 5, 2).run(counted, alone)
    assert calls == []
    search(tmp_path, 9, 3).run(counted, alone)
    assert calls == [3, 1]
    search(tmp_path, 2).run(counted, alone)
    assert calls == [3, 1]


def test_failures_count_and_keep_their_reason(tmp_path: Path) -> None:
    def partly(batch: Sequence[Sequence[str]]) -> list[Outcome]:
        outcomes = []
        for overrides, outcome in zip(batch, evaluate(batch), strict=True):
            bad = "y=a" in overrides
            outcomes.append(Outcome(None, "method: out of luck") if bad else outcome)
        return outcomes

    found = search(tmp_path, 12, 3)
    found.run(partly, alone)
    assert len(found.study.trials) == 12
    for trial in found.study.trials:
        failed = trial.params["y"] == "a"
        assert trial.state is (TrialState.FAIL if failed else TrialState.COMPLETE)
        assert trial.user_attrs.get(REASON) == ("method: out of luck" if failed else None)
    assert all(trial.params["y"] == "b" for trial in found.pareto())


def test_a_lost_trial_is_tried_once_more_at_the_end(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def losing(batch: Sequence[Sequence[str]]) -> list[Outcome]:
        asked.extend(map(list, batch))
        return [
            Outcome(None, "the job was cancelled", lost=True) if overrides in asked[1:2] or len(asked) == 4 else outcome
            for overrides, outcome in zip(map(list, batch), evaluate(batch), strict=True)
        ]

    found = search(tmp_path, 6)
    found.run(losing, alone)
    assert asked[6:] == [asked[1], asked[3]]
    states = [trial.state for trial in found.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, *[TrialState.COMPLETE] * 4]
    assert found.study.trials[1].user_attrs[REASON] == "the job was cancelled"


def test_a_record_without_the_number_is_a_failure_that_says_so(tmp_path: Path) -> None:
    found = search(tmp_path, 1)
    found.run(lambda batch: [Outcome({"quality": {"retained": None}, "size": {"artifact_bytes": 1}})], alone)
    assert found.study.trials[0].user_attrs[REASON] == "its record has no number at quality/retained"


def test_equal_trials_of_a_batch_are_evaluated_once(tmp_path: Path) -> None:
    two = Space({}, {"y": Choice("y", ("a", "b"))}, {}, lambda overrides: CONFIG)
    asked: list[list[str]] = []

    def evaluate_once(batch: Sequence[Sequence[str]]) -> list[Outcome]:
        asked.extend(map(list, batch))
        return evaluate([[*overrides, "x=0.5"] for overrides in batch])

    found = search(tmp_path, 8, 8, "random", space=two)
    found.run(evaluate_once, alone)
    assert sorted(asked) == [["y=a"], ["y=b"]]
    assert len(found.study.trials) == 8 and len(found.pareto()) == 2


def test_only_what_the_drawn_configuration_has_is_drawn(tmp_path: Path) -> None:
    def compose(overrides: Sequence[str]) -> DictConfig:
        return OmegaConf.create({"y": 0} if "y=a" in overrides else {"x": 0, "y": 0})

    space = Space({}, SPACE.drawn, {"y": 0}, compose)
    found = search(tmp_path, 12, space=space)
    found.run(lambda batch: evaluate([["x=0.5", *overrides] for overrides in batch]), alone)
    assert {frozenset(trial.params) for trial in found.study.trials} == {frozenset({"y"}), frozenset({"x", "y"})}
    assert all(("x" in trial.params) == (trial.params["y"] == "b") for trial in found.study.trials)


def test_it_stops_where_another_process_took_over(tmp_path: Path) -> None:
    calls = iter(range(3))

    def check() -> None:
        if next(calls) == 2:
            raise Killed

    with pytest.raises(Killed):
        search(tmp_path).run(evaluate, check)
    assert len(search(tmp_path).study.trials) == 2


def test_a_study_of_another_search_is_refused(tmp_path: Path) -> None:
    search(tmp_path, 2).run(evaluate, alone)
    with pytest.raises(
        UserError, match="'s' in sqlite:.* is of another search .*: drawn.; choose another name"
    ) as error:
        search(tmp_path, space=Space(SPACE.fixed, {"x": SPACE.drawn["x"]}, SPACE.levels, SPACE.compose))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sqlite:////nowhere/at/all.db", "cannot be used (unable to open database file)"),
        ("nosuch://u:secret@h/d", "nosuch://u:…@h/d cannot be used ("),
        ("not a url", "not a url cannot be used ("),
        ("postgresql+nosuch://u:secret@h/d?password=secret", "postgresql+nosuch://u:…@h/d?password=… cannot be used ("),
    ],
)
def test_a_storage_that_does_not_work_is_told_without_its_password(url: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        open_study(url, "s", ["minimize"], {})
    assert sentence in str(error.value)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("no database" * 1000)
    with pytest.raises(UserError, match="file is not a database"):
        open_study(f"sqlite:///{tmp_path}/x.db", "s", ["minimize"], {})


def test_the_database_can_be_read_by_anyone(tmp_path: Path) -> None:
    search(tmp_path, 2).run(evaluate, alone)
    with sqlite3.connect(tmp_path / "searches" / "s.db") as connection:
        assert connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone() == (2,)
    assert isinstance(OBJECTIVES[0], Objective) and optuna.__version__ >= "4.7"

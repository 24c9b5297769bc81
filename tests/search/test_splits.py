"""Which rows trials are evaluated on, and on which the result is measured."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from compress_exp.search.space import Choice, Space
from compress_exp.search.splits import measured_on, on_holdout


def fixed(given: dict[str, object], **composed: object) -> tuple[list[str], str | None]:
    """The overrides that are fixed for trials, and the split of the result."""
    config = OmegaConf.create({"task": {"holdout": 0.0, "evaluate_on": None} | given | composed})
    written = {f"task.{key}": f"task.{key}={value}" for key, value in given.items()}
    space = Space(written, {"seed": Choice("seed", ("1",))}, {}, lambda overrides: config)
    found, split = on_holdout(space, config)
    return sorted(found.fixed.values()), split


@pytest.mark.parametrize(
    ("given", "composed", "trials", "split"),
    [
        ({}, {}, ["task.evaluate_on=holdout", "task.holdout=0.1"], "validation"),
        ({"holdout": 0.2}, {}, ["task.evaluate_on=holdout", "task.holdout=0.2"], "validation"),
        ({}, {"holdout": 0.3}, ["task.evaluate_on=holdout"], "validation"),
        ({"evaluate_on": "test"}, {}, ["task.evaluate_on=holdout", "task.holdout=0.1"], "test"),
        ({"holdout": 0}, {}, ["task.holdout=0"], None),
        ({"holdout": 0.1, "evaluate_on": "holdout"}, {}, ["task.evaluate_on=holdout", "task.holdout=0.1"], None),
    ],
)
def test_trials_look_at_a_holdout_and_the_result_at_what_was_asked_for(
    given: dict[str, object], composed: dict[str, object], trials: list[str], split: str | None
) -> None:
    assert fixed(given, **composed) == (trials, split)


def test_measuring_again_changes_the_evaluated_rows_only() -> None:
    overrides = ["method=prune", "task.holdout=0.1", "task.evaluate_on=holdout", "seed=1"]
    assert measured_on(overrides, "test") == ["method=prune", "task.holdout=0.1", "task.evaluate_on=test", "seed=1"]

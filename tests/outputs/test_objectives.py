"""Paths of a record and their directions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from omegaconf import OmegaConf

from compress_exp.config.checks import FieldError
from compress_exp.outputs.objectives import parse

RECORD = {
    "quality": {"primary": {"name": "f1", "value": 0.8}, "metrics": {"f1": 0.8, "accuracy": 0.9}, "retained": None},
    "size": {"artifact_bytes": 1_200_000, "sparsity": math.nan},
    "latency": {"p50_ms": 3.5, "rows": [{"p50_ms": 3.5}, {"p50_ms": 7.0}]},
    "score": {"WS": 4.5, "A": 0.8},
}


@pytest.mark.parametrize(
    ("path", "direction"),
    [
        ("quality/primary", None),
        ("quality/retained", "maximize"),
        ("size/artifact_bytes", "minimize"),
        ("size/compression_ratio", "maximize"),
        ("latency/p50_ms", "minimize"),
        ("latency/p99_ms", "minimize"),
        ("latency/speedup", "maximize"),
        ("latency/speedup_over_eager", "maximize"),
        ("memory/peak_rss_bytes", "minimize"),
        ("score", "maximize"),
    ],
)
def test_usual_paths_have_their_direction(path: str, direction: str | None) -> None:
    (objective,) = parse(OmegaConf.create([path]))
    assert (objective.path, objective.direction) == (path, direction)
    (other,) = parse([{"path": path, "direction": "minimize"}])
    assert other.direction == "minimize"


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("quality/primary", 0.8, "0.8"),
        ("quality/metrics/accuracy", 0.9, "0.9"),
        ("size/artifact_bytes", 1.2e6, "1.2 MB"),
        ("latency/p50_ms", 3.5, "3.5 ms"),
        ("latency/rows/1/p50_ms", 7.0, "7 ms"),
        ("score", 4.5, "4.5"),
    ],
)
def test_values_are_read_off_the_record(path: str, value: float, shown: str) -> None:
    (objective,) = parse([{"path": path, "direction": "maximize"}])
    assert objective.value(RECORD) == value
    assert objective.show(value) == shown


@pytest.mark.parametrize(
    "path", ["quality/retained", "size/sparsity", "memory/peak_rss_bytes", "latency/rows/2/p50_ms"]
)
def test_what_is_not_there_or_no_number_is_none(path: str) -> None:
    (objective,) = parse([{"path": path, "direction": "maximize"}])
    assert objective.value(RECORD) is None
    assert objective.value({}) is None


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ([], r"objectives: \[\] is not allowed, a list of record paths is"),
        ("score", "'score' is not allowed, a list"),
        (["quality/primry"], "the direction of 'quality/primry' is not known.*did you mean quality/primary"),
        (["sise/artifact_bytes"], "no path of a number in a record; did you mean size/artifact_bytes"),
        (["size"], "'size' is no path of a number"),
        ([{"path": "nothing/here", "direction": "minimize"}], "'nothing/here' is no path of a number"),
        ([{"path": "latency/p50_ms", "direction": "up"}], "'up' is not allowed; allowed: minimize, maximize"),
        ([{"path": "score", "way": "minimize"}], "a record path or {path: <record path>, direction:"),
        ([3], "3 is not allowed; a record path"),
        (["score", {"path": "score", "direction": "minimize"}], "score is there twice"),
    ],
)
def test_mistakes_are_told_in_one_sentence(node: Any, sentence: str) -> None:
    with pytest.raises(FieldError, match=sentence) as error:
        parse(node)
    assert "\n" not in str(error.value)

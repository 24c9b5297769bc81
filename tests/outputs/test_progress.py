from __future__ import annotations

import json

import pytest

from compress_exp.outputs.lease import LeaseLost, lease_file, leased
from compress_exp.outputs.progress import EVERY_SECONDS, STATUS, failure, reported


def unchecked():
    """The lease of what is built is in order."""


def test_the_status_follows_the_run_and_goes_when_it_is_done(tmp_path, monkeypatch):
    directory, now = tmp_path / "runs" / "name", [1000.0]
    monkeypatch.setattr("compress_exp.outputs.progress.time.monotonic", lambda: now[0])
    with leased(directory, 60.0, "x") as lease, reported(directory, "id", ["key"], lease) as progress:
        progress.stage("baseline")
        beat = progress.beat(unchecked)
        beat(3, 10)
        status = json.loads((directory / STATUS).read_text())
        assert (status["run"], status["name"], status["chain"]) == ("id", "name", ["key"])
        assert (status["state"], status["stage"], status["step"]) == ("running", "baseline", 0)
        now[0] += EVERY_SECONDS
        beat(4, 10)
        status = json.loads((directory / STATUS).read_text())
        assert (status["step"], status["steps"]) == (4, 10)
    assert not (directory / STATUS).exists()


def test_a_failure_leaves_its_sentence_until_the_next_try(tmp_path):
    with (
        pytest.raises(ValueError),
        leased(tmp_path / "a", 60.0, "x") as lease,
        reported(tmp_path / "a", "id", [], lease),
    ):
        raise ValueError("no luck\nat all")
    assert failure(tmp_path / "a", 0.0) == "ValueError: no luck"
    assert failure(tmp_path / "a", 4e9) is None


def test_who_was_superseded_says_nothing_of_the_run(tmp_path):
    directory = tmp_path / "a"
    with (
        pytest.raises(LeaseLost),
        leased(directory, 60.0, "x") as lease,
        reported(directory, "id", [], lease) as progress,
    ):
        progress.stage("measuring")
        lease_file(directory).unlink()
        raise RuntimeError("its export is gone")
    assert failure(directory, 0.0) is None
    with leased(directory, 60.0, "x") as lease, reported(directory, "id", [], lease) as progress:
        lease_file(directory).unlink()
        with pytest.raises(LeaseLost):
            progress.stage("measuring")
        (directory / STATUS).touch()

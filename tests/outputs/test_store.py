from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from compress_exp.config.checks import UserError
from compress_exp.outputs.files import digest, finite, write_json
from compress_exp.outputs.lease import LeaseLost, leased
from compress_exp.outputs.store import STATE, Store


def builder(log, content="x"):
    def build(directory, check):
        log.append(directory)
        (directory / "model.safetensors").write_text(content)
        return {"steps": 3}

    return build


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_no_file_holds_what_json_does_not_know(number, tmp_path):
    content = {"a": [1.5, number], "b": ({"c": number}, "NaN", True, 3)}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "record.json", content)
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "record.json", finite(content))
    assert json.loads((tmp_path / "record.json").read_text()) == {"a": [1.5, None], "b": [{"c": None}, "NaN", True, 3]}


def test_the_key_is_the_content_with_lists_in_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"b": [1, 2]}) != digest({"b": [2, 1]})


def test_an_artifact_is_built_once_and_found_again(tmp_path):
    store, log = Store(tmp_path), []
    first = store.get({"a": 1}, builder(log), "x")
    assert store.get({"a": 1}, builder(log), "x") == first == store.find(digest({"a": 1}))
    assert len(log) == 1
    assert json.loads((first / "recipe.json").read_text()) == {"a": 1}
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("harm", ["truncate", "remove", "build"])
def test_a_damaged_artifact_is_said_and_built_again(tmp_path, caplog, harm):
    store, log = Store(tmp_path), []
    path = store.get({"a": 1}, builder(log, "complete"), "x")
    if harm == "truncate":
        (path / "model.safetensors").write_text("comp")
    elif harm == "remove":
        (path / "model.safetensors").unlink()
    else:
        (path / "build.json").write_text("{")
    assert store.find(digest({"a": 1})) is None
    assert store.get({"a": 1}, builder(log, "complete"), "x") == path
    assert len(log) == 2
    assert "building it again" in caplog.text
    assert (path / "model.safetensors").read_text() == "complete"


def test_a_failed_build_leaves_what_it_had_for_the_next(tmp_path):
    store = Store(tmp_path)

    def fails(directory, check):
        (directory / STATE / "checkpoint.ckpt").write_text("half")
        (directory / STATE / "checkpoint.tmp").write_text("torn")
        (directory / "model.safetensors").write_text("torn")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.get({"a": 1}, fails, "x")
    assert store.find(digest({"a": 1})) is None
    seen = []

    def resumes(directory, check):
        seen.extend(file.read_text() for file in directory.rglob("*") if file.is_file())
        return {}

    path = store.get({"a": 1}, resumes, "x")
    assert seen == ["half"]
    assert not (path / STATE).exists()


def test_older_results_are_built_again_on_demand_and_never_missing_meanwhile(tmp_path):
    store, log = Store(tmp_path), []
    path = store.get({"a": 1}, builder(log, "old"), "x")

    def rebuild(directory, check):
        assert (store.find(digest({"a": 1})) / "model.safetensors").read_text() == "old"
        (directory / "model.safetensors").write_text("new")
        return {}

    assert store.get({"a": 1}, rebuild, "x", newer_than=time.time() + 1) == path
    assert (path / "model.safetensors").read_text() == "new"
    aside = path.with_name(f".{path.name}.old")
    assert not aside.exists()
    path.rename(aside)
    assert (store.find(digest({"a": 1})) / "model.safetensors").read_text() == "new"


def test_a_kill_between_the_last_file_and_the_last_rename_loses_nothing(tmp_path):
    store, log = Store(tmp_path), []
    path = store.get({"a": 1}, builder(log), "x")
    path.rename(path.with_name(f"{path.name}.partial-0123"))
    assert store.get({"a": 1}, builder(log), "x") == path
    path.rename(path.with_name(f".{path.name}.old"))
    assert store.get({"a": 1}, builder(log), "x") == path
    assert len(log) == 1


def test_six_processes_build_one_artifact_once(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from compress_exp.outputs.store import Store\n"
        "def build(d, check):\n"
        "    with open(sys.argv[2], 'a') as f: f.write('built\\n')\n"
        "    time.sleep(0.3); (d / 'x').write_text('x'); return {}\n"
        "print(Store(Path(sys.argv[1])).get({'a': 1}, build, 'x'))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "artifacts"), str(tmp_path / "log")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    answers = {process.communicate()[0] for process in processes}
    assert len(answers) == 1
    assert (tmp_path / "log").read_text() == "built\n"


FROZEN = """
import sys, time
from pathlib import Path
from compress_exp.config.checks import UserError
from compress_exp.outputs.lease import leased
from compress_exp.outputs.store import STATE, Store

def build(directory, check):
    (directory / STATE / "checkpoint.ckpt").write_text("step 7")
    print("building", flush=True)
    for _ in range(100):
        time.sleep(0.1)
        check()
    (directory / "x").write_text("late")
    return {}

print((Store(Path(sys.argv[1]), 1.0).get({"a": 1}, build, "x") / "x").read_text(), flush=True)
"""


def test_a_frozen_builder_is_superseded_and_discards_its_copy_when_it_wakes_up(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", FROZEN, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "building\n"
    first.send_signal(signal.SIGSTOP)
    taken = []

    def build(directory, check):
        taken.append((directory / STATE / "checkpoint.ckpt").read_text())
        (directory / "x").write_text("good")
        return {}

    path = Store(tmp_path, 1.0).get({"a": 1}, build, "x")
    first.send_signal(signal.SIGCONT)
    assert first.communicate(timeout=60)[0] == "good\n"
    assert taken == ["step 7"]
    assert [place.name for place in tmp_path.iterdir() if not place.name.startswith(".")] == ["builds.jsonl", path.name]
    assert (path / "x").read_text() == "good"
    assert len((tmp_path / "builds.jsonl").read_text().splitlines()) == 1


def test_a_marker_without_content_blocks_nobody_for_ever(tmp_path):
    (tmp_path / ".a.lease").touch()
    started = time.monotonic()
    with leased(tmp_path / "a", 1.0, "second") as lease:
        assert not lease.lost
    assert time.monotonic() - started >= 1.0


def test_a_marker_that_is_away_for_a_moment_is_not_lost(tmp_path):
    with leased(tmp_path / "a", 60.0, "first") as lease:
        marker, aside = tmp_path / ".a.lease", tmp_path / "aside"
        marker.rename(aside)
        threading.Timer(0.05, lambda: aside.rename(marker)).start()
        lease.check()
        marker.unlink()
        with pytest.raises(LeaseLost):
            lease.check()


def test_a_builder_that_fails_because_it_was_superseded_takes_what_the_other_built(tmp_path):
    store, calls = Store(tmp_path), []

    def build(directory, check):
        calls.append(directory)
        if len(calls) == 1:
            for marker in tmp_path.glob(".*.lease"):
                marker.unlink()
            raise RuntimeError("its directory is gone")
        (directory / "x").write_text("good")
        return {}

    assert (store.get({"a": 1}, build, "x") / "x").read_text() == "good"
    assert len(calls) == 2
    assert not list(tmp_path.glob("*.partial*"))


def test_another_duration_is_refused_in_one_sentence(tmp_path):
    with (
        leased(tmp_path / "a", 60.0, "first"),
        pytest.raises(UserError, match="lease_seconds: 30 differs from"),
        leased(tmp_path / "a", 30.0, "second"),
    ):
        pass


def test_json_is_written_whole(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}

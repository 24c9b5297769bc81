from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress_exp.config.build import build
from compress_exp.config.checks import UserError
from compress_exp.outputs.history import curves
from compress_exp.tracking.base import NoTracking, Tracking, clean, flatten, summary
from compress_exp.tracking.csv import CsvTracking
from compress_exp.tracking.wandb import WandbTracking
from compress_exp.tracking.wandb_account import has_key

ROW = {"batch_size": 1, "length": 128, "p50_ms": 1.25, "speedup": 2.0, "speedup_interval": [1.9, 2.1]}
RECORD: dict[str, Any] = {
    "schema": 1,
    "run": {
        "id": "abc123",
        "name": "tiny-reviews-prune-s0-abc123",
        "model": "tiny",
        "task": "reviews",
        "method": ["distill", "quant"],
        "hardware": "cpu",
        "seed": 0,
    },
    "quality": {"primary": {"name": "accuracy", "value": 0.93}, "metrics": {"accuracy": 0.93, "f1": 0.91}},
    "size": {"artifact_bytes": 1234},
    "latency": {**ROW, "rows": [ROW, ROW | {"batch_size": 8, "p50_ms": 4.0}]},
    "energy": {"joules": None, "reason": "unreadable"},
    "stages": [{"methods": ["distill"], "seconds": 2.5}],
}
CURVES = [{"step": step, "train/loss": 1 / (step + 1)} for step in range(5)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without accounts, where nothing may appear."""
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("HOME", str(place))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return place


def log(tracking: Tracking, outputs: Path, quality: float = 0.93, **config: Any) -> Path:
    directory = outputs / "runs" / "x"
    directory.mkdir(parents=True, exist_ok=True)
    record = RECORD | {"quality": RECORD["quality"] | {"primary": {"name": "accuracy", "value": quality}}}
    (directory / "record.json").write_text(json.dumps(record))
    tracking.log(record, CURVES, config, directory)
    return directory


def inspect(path: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *flags, "--json", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_an_offline_run_holds_the_record_the_curves_and_the_configuration(tmp_path: Path, home: Path) -> None:
    log(WandbTracking(mode="offline"), tmp_path / "out", model={"path": str(home / "weights")})
    (path,) = (tmp_path / "out" / "wandb").glob("offline-run-*-abc123/*.wandb")
    found = json.loads(inspect(path, "--summary"))
    assert found["state"] == "finished"
    assert found["name"] == RECORD["run"]["name"]
    assert found["config"] | {"cfg": 0} == {
        "model": "tiny",
        "task": "reviews",
        "method": "distill+quant",
        "seed": 0,
        "cfg": 0,
    }
    assert found["config"]["cfg"]["model"]["path"] == "~/weights"
    assert found["tags"] == ["distill+quant", "cpu"]
    expected = {
        "quality/primary": 0.93,
        "quality/metrics/f1": 0.91,
        "size/artifact_bytes": 1234,
        "latency/p50_ms": 1.25,
        "latency/speedup_interval/1": 2.1,
        "stages/0/seconds": 2.5,
        "run/method": "distill,quant",
    }
    assert {name: found["summary"][name] for name in expected} == expected
    assert found["summary"]["latency/table"]["nrows"] == 2
    records = [json.loads(line) for line in inspect(path).splitlines()]
    history = [item["history"]["item"] for item in records if item["type"] == "history"]
    losses = {item["_step"]: item["train/loss"] for item in history if "train/loss" in item}
    assert losses == pytest.approx({row["step"]: row["train/loss"] for row in CURVES})
    assert str(home).encode() not in path.read_bytes()
    assert not list(home.iterdir())


def test_a_server_that_does_not_answer_keeps_the_run_offline(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    wandb.teardown()  # it reads the environment once
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    log(WandbTracking(timeout=1), tmp_path / "out")
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "tracking: http://127.0.0.1:9 does not answer; kept offline"
    ]
    assert list((tmp_path / "out" / "wandb").glob("offline-run-*-abc123/*.wandb"))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"k" * 40 in path.read_bytes()]
    wandb.teardown()


@pytest.mark.parametrize(("mode", "level"), [("auto", logging.INFO), ("online", logging.WARNING)])
def test_without_a_key_it_is_kept_offline_which_is_said_in_one_line(
    tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture, mode: str, level: int
) -> None:
    caplog.set_level(logging.INFO, "compress_exp")
    directory = log(WandbTracking(mode=mode), tmp_path / "out")
    (line,) = [record for record in caplog.records if record.name == "compress_exp"]
    assert line.levelno == level
    assert "there is no key for https://" in line.getMessage() and "kept offline" in line.getMessage()
    assert WandbTracking(mode=mode).done(directory)
    assert list((tmp_path / "out" / "wandb").glob("offline-run-*-abc123/*.wandb"))


def test_a_failure_is_one_warning(tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "wandb").write_text("a file where the directory should be")
    directory = log(WandbTracking(mode="offline"), tmp_path)
    CsvTracking().log(RECORD, CURVES, {}, tmp_path / "nowhere")
    assert not WandbTracking(mode="offline").done(directory)
    assert len(caplog.records) == 2
    assert all(record.getMessage().startswith("tracking: ") for record in caplog.records)


def test_csv_writes_every_column_and_replaces(tmp_path: Path) -> None:
    for _ in range(2):
        CsvTracking().log(RECORD, [{"step": 0, "a": 1.5}, {"step": 1, "b": 2.5}], {}, tmp_path)
    with (tmp_path / "history.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [{"step": "0", "a": "1.5", "b": ""}, {"step": "1", "a": "", "b": "2.5"}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "tracked.json"]


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    directory = log(NoTracking(), tmp_path)
    assert [path.name for path in directory.iterdir()] == ["record.json"]
    assert NoTracking().done(directory)


def test_a_run_is_done_for_the_tracker_that_showed_its_present_record(tmp_path: Path, home: Path) -> None:
    directory = log(CsvTracking(), tmp_path)
    assert CsvTracking().done(directory)
    offline = WandbTracking(mode="offline")
    assert not offline.done(directory)
    log(offline, tmp_path)
    assert offline.done(directory)
    assert WandbTracking().done(directory)
    assert CsvTracking().done(directory)
    assert not WandbTracking(project="another").done(directory)
    (directory / "record.json").write_text(json.dumps(RECORD | {"score": {"WS": 3}}))
    assert not offline.done(directory)
    (directory / "tracked.json").write_text("{")
    assert not CsvTracking().done(directory)


def test_wandb_switched_off_in_the_environment_has_nothing_to_do(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    directory = log(WandbTracking(), tmp_path)
    assert WandbTracking().done(directory)
    assert not WandbTracking(mode="offline").done(directory)
    monkeypatch.delenv("WANDB_MODE")
    assert WandbTracking(mode="disabled").done(log(WandbTracking(mode="disabled"), tmp_path))
    assert not WandbTracking().done(directory)
    assert not (tmp_path / "wandb").exists()


def test_paths_are_flat_and_the_headline_stands_first() -> None:
    assert flatten({"a": {"b": [1, {"c": 2}]}, "d": ["x", "y"], "e": None}) == {
        "a/b/0": 1,
        "a/b/1/c": 2,
        "d": "x,y",
        "e": None,
    }
    flat = summary(RECORD)
    assert flat["latency/p50_ms"] == 1.25
    assert not [name for name in flat if name.startswith("latency/rows")]


def test_secrets_and_the_home_directory_do_not_travel(home: Path) -> None:
    node = {"api_key": "s", "HF_TOKEN": "s", "tokenizer": "kept", "deep": [{"password": "s", "path": f"{home}/x"}]}
    assert clean(node) == {"tokenizer": "kept", "deep": [{"path": "~/x"}]}
    assert clean(f"{home}work and {home}") == f"{home}work and ~"


def test_the_curves_of_a_chain_have_one_rising_step_axis(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("baseline", "untrained", "stage")]
    for path, steps, logged in zip(paths, (6, 0, 3), ((0, 5), (), (0, 2)), strict=True):
        path.mkdir()
        (path / "build.json").write_text(json.dumps({"steps": steps}))
        (path / "history.csv").write_text("\n".join(["step,train/loss", *(f"{step}.0,0.5" for step in logged)]))
    assert [(row["step"], row["stage"]) for row in curves(paths)] == [(0, 0), (5, 0), (6, 2), (8, 2)]


def test_an_account_is_found_in_the_environment_or_in_netrc(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key("https://wandb.example")
    (home / ".netrc").write_text("machine wandb.example login user password none\n")
    (home / ".netrc").chmod(0o600)
    assert has_key("https://wandb.example")
    assert not has_key("https://other.example")
    (home / ".netrc").write_text("machine 127.0.0.1:8080 password none machine api.wandb.ai password none\n")
    assert has_key("http://127.0.0.1:8080") and not has_key("http://127.0.0.1:9090")
    assert has_key("https://api.forge.coreweave.com")  # what `wandb login` wrote before the cloud moved
    (home / ".netrc").write_text("machine")
    assert not has_key("https://wandb.example")
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_key("https://other.example")


def test_a_bad_mode_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"tracking.mode: 'offlin' is not allowed; did you mean"):
        build({"_target_": "compress_exp.tracking.wandb.WandbTracking", "mode": "offlin"}, "tracking")

"""No key, token, password or home directory is kept or shown: they are planted, and everything written is searched."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from compress_exp.config.overrides import at_home
from compress_exp.config.secrecy import HIDDEN, clean, hide, kept, safe
from tests.experiments import write_data

ROOT = Path(__file__).parents[1]
KEY, TOKEN = "0123456789abcdef0123456789abcdef01234567", "hf_plantedplantedplantedplantedplanted"
OTHER, WORD = "tok3n-on-the-command-line", "pl4nted-passw0rd"
SMALL = ["hidden_size=32", "num_hidden_layers=2", "num_attention_heads=2", "intermediate_size=64"]
TINY = ["model.vocabulary=320", "train.max_steps=2", "train.threads=1", "task.max_length=16", "tracking=csv"]
TINY += ["hardware.batch_sizes=[1]", "hardware.lengths=[8]", "hardware.rounds=5", "hardware.seconds=0.1"]


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user at a home directory runs it, with secrets in the environment and on the command line."""
    environment = os.environ | {"HOME": str(home), "WANDB_API_KEY": KEY, "HF_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    planted = [f"+hydra.job.env_set.OTHER_API_TOKEN={OTHER}"]
    planted += [f"+hydra.job.env_set.HTTP_PROXY=http://me:{WORD}@proxy.example:3128"]
    words = [sys.executable, "-m", "compress_exp", *arguments, *planted]
    return subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, timeout=300)


def found(home: Path, *texts: str) -> list[str]:
    """Where any of what was planted stands, in files or in texts."""
    planted = [item.encode() for item in (KEY, TOKEN, OTHER, WORD, str(home))]
    files = [path for path in (home / "outputs").rglob("*") if path.is_file()]
    contents = {str(path): path.read_bytes() for path in files}
    contents |= {f"output {index}": text.encode() for index, text in enumerate(texts)}
    assert len(files) > 20
    return [f"{name}: {item.decode()}" for name, content in contents.items() for item in planted if item in content]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("planted") / "home" / "somebody"
    write_data(place / "data")
    return place


@pytest.fixture(scope="module")
def swept(home: Path) -> subprocess.CompletedProcess[str]:
    sizes = [f"model.architecture.{item}" for item in SMALL]
    places = [f"task.data_dir={home}/data", "outputs=~/outputs"]
    return command(home, "-m", "method=prune,quant", *sizes, *TINY, *places)


def test_a_sweep_keeps_and_shows_nothing_that_was_planted(home: Path, swept: subprocess.CompletedProcess[str]) -> None:
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert found(home, swept.stdout, swept.stderr) == []
    record = json.loads(next((home / "outputs" / "runs").glob("*/record.json")).read_text())
    assert "task.data_dir=~/data" in record["run"]["overrides"]
    assert HIDDEN in record["run"]["command"]
    for name in ("reports/report.html", "reports/table.csv"):
        assert (home / "outputs" / name).exists()
    cards = list((home / "outputs" / "artifacts").glob("*/README.md"))
    assert len(cards) == 3


def test_the_same_sweep_and_the_command_of_its_record_go_on_from_there(
    home: Path, swept: subprocess.CompletedProcess[str]
) -> None:
    places = [path for path in (home / "outputs" / "runs").glob("*/record.json")]
    before = {path: path.stat().st_mtime_ns for path in places}
    record = json.loads(places[0].read_text())
    own = [item for item in record["run"]["overrides"] if HIDDEN not in item]
    again = command(home, *shlex.split(shlex.join(own)))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "finished before" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (home / "outputs" / "runs").glob("*/record.json")} == before
    assert found(home, again.stdout, again.stderr) == []


def test_a_model_and_a_teacher_at_home_and_a_failure_are_told_without_them(
    home: Path, swept: subprocess.CompletedProcess[str]
) -> None:
    record = json.loads(next((home / "outputs" / "runs").glob("*/record.json")).read_text())
    dense = home / "outputs" / "artifacts" / record["origin"]["baseline"]
    given = [f"model.path={dense}", f"teacher={dense}", "model.finetuned=true", "loss=soft_targets", "method=finetune"]
    made = command(home, *given, *TINY, f"task.data_dir={home}/data", f"outputs={home}/outputs")
    assert made.returncode == 0, made.stdout + made.stderr
    places = [f"task.data_dir={home}/lost", f"outputs={home}/outputs"]
    lost = command(home, "-m", "method=prune", "seed=0,1", *TINY, *places)
    refused = command(home, f"model.path={home}/lost", f"+model.api_key={OTHER}", f"outputs={home}/outputs")
    assert lost.returncode == refused.returncode == 1
    told = [text for done in (made, lost, refused) for text in (done.stdout, done.stderr)]
    assert found(home, *told) == []
    assert "~/lost" in lost.stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x.api_key=abc y", "x.api_key=… y"),
        ("hardware.new_tokens=64", "hardware.new_tokens=64"),
        ("postgresql://me:p@ss@host/x", "postgresql://me:…@host/x"),
        (f"in {TOKEN}.", "in …."),
        ("a=/home/me/x:/home/me", "a=~/x:~"),
        ("'/home/me'", "'~'"),
        ("http://proxy:3128 refused me@host", "http://proxy:3128 refused me@host"),
        ("http://a:b@c and http://d:e@f:1/g", "http://a:…@c and http://d:…@f:1/g"),
        ("/srv/home/me/x /home/me2 /home/me.old", "/srv/home/me/x /home/me2 /home/me.old"),
    ],
)
def test_texts(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert hide(text) == shown
    assert clean({"a": [text], "api_key": "x"}) == {"a": [shown]}


def test_an_argument_hides_a_password_with_anything_in_it() -> None:
    assert kept(["x=db://me:a b@c\n@host/d", "y=1"]) == ["x=db://me:…@host/d", "y=1"]


def test_a_key_of_the_environment_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert hide(f"denied: {KEY[:-1]} {KEY}") == f"denied: {KEY[:-1]} …"


def test_numbers_of_a_record_are_left_alone() -> None:
    record = {"run": {"x": 1}, "latency": {"token": 2.0, "per_token": 1.5}, "score": {}}
    assert safe(record) == record


def test_a_tilde_that_a_value_begins_with_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = ["task.data_dir=~/data", "outputs=~", "~method.prune", "a=b~/c", "x='~/y'"]
    assert [at_home(item) for item in given] == [
        "task.data_dir=/home/me/data", "outputs=/home/me", "~method.prune", "a=b~/c", "x='~/y'",
    ]  # fmt: skip

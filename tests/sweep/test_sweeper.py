"""The sweeper in a small Hydra application of its own, with the real launcher."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from compress_exp.config.checks import UserError
from compress_exp.config.compose import Loader
from compress_exp.config.overrides import combinations
from compress_exp.config.refusal import SweepFailed
from compress_exp.config.schema import CONF
from compress_exp.outputs.manifest import Identity
from compress_exp.outputs.records import REQUIRED
from compress_exp.outputs.store import Store

CONFIG = """
defaults:
  - method: prune
  - override hydra/sweeper: grid
  - override hydra/job_logging: plain
  - override hydra/hydra_logging: plain
  - _self_
seed: 0
until: null
outputs: {outputs}
hydra:
  output_subdir: null
  run: {{dir: "${{outputs}}"}}
  sweep: {{dir: "${{outputs}}", subdir: "."}}
"""
METHODS = {
    "prune": "defaults: [prune/magnitude]\n",
    "prune/magnitude": "# @package method.prune\nsparsity: 0.5\n",
    "prune/movement": "# @package method.prune\nsparsity: 0.5\nwarmup: 1\n",
    "quant": "# @package method.quant\nbits: 8\n",
}
WEIGHTS = {"accuracy": 1, "compression": 0, "speed": 0}
Task = Callable[[DictConfig], Any]


@pytest.fixture(autouse=True)
def _own_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuring logging closes every handler of the process, and absl's closes its stream: pytest's capture."""
    monkeypatch.setattr(logging, "_handlerList", [])


@pytest.fixture
def app(tmp_path: Path) -> Path:
    for name, text in METHODS.items():
        path = tmp_path / "conf" / "method" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copytree(CONF / "hydra", tmp_path / "conf" / "hydra")
    (tmp_path / "conf" / "config.yaml").write_text(CONFIG.format(outputs=tmp_path / "out"))
    return tmp_path


def loader(app: Path) -> Loader:
    return Loader(create_config_search_path(str(app / "conf")))


def sweep(app: Path, task: Task, *overrides: str, identify: str = f"{__name__}.identify") -> Any:
    hydra = Hydra(task_name="app", config_loader=loader(app))
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)
    try:
        return hydra.multirun("config", task, [f"hydra.sweeper.identify={identify}", *overrides])
    finally:
        GlobalHydra.instance().clear()


def identify(config: DictConfig) -> Identity:
    """One baseline for all seeds of a list of methods, one artifact for each method after it."""
    names = list(config.method)
    chain = [f"base-{config.seed}", *("+".join([*names[: index + 1], str(config.seed)]) for index in range(len(names)))]
    run = chain[-1]
    return Identity(run, run, tuple(chain), None, None, False, WEIGHTS)


def finish(config: DictConfig) -> dict[str, Any]:
    """What a run leaves behind: a record named after what was asked."""
    asked = identify(config)
    record: dict[str, Any] = {name: {} for name in REQUIRED}
    record |= {
        "run": {"id": asked.run, "method": list(config.method), "task": "t", "model": "m", "seed": 0},
        "quality": {
            "primary": {"name": "accuracy", "value": 0.9, "higher_is_better": True},
            "baseline": {"accuracy": 0.95},
        },
        "size": {"compression_ratio": 2.0},
        "latency": {"rows": []},
    }
    directory = Path(config.outputs) / "runs" / asked.name
    directory.mkdir(parents=True)
    (directory / "record.json").write_text(json.dumps(record))
    return record


def test_a_failing_job_stops_no_other_and_the_table_comes_last(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def task(config: DictConfig) -> Any:
        if config.seed == 1:
            raise UserError("task.data_dir: 'x' is not there")
        if config.seed == 2:
            raise RuntimeError("out of luck\nsecond line")
        return finish(config)

    with pytest.raises(SweepFailed, match="2 of 4 runs failed"):
        sweep(app, task, "seed=0,1,2,3")
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("[")] == [f"[{i + 1}/4] seed={i}" for i in range(4)]
    tail = out[out.index("accuracy") :]
    assert tail.count("0.9000") == 2
    assert tail[tail.index("2 of 4") :].splitlines() == [
        "2 of 4 runs failed:",
        "  seed=1: task.data_dir: 'x' is not there",
        "  seed=2: RuntimeError: out of luck",
    ]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=prune,quan"], "method=quan: there is no such choice; did you mean quant? allowed: prune, quant"),
        (["method=prune,[prune,quan]"], "method=quan: there is no such choice"),
        (
            ["method=prune,quant", "method.prune.sparsity=0.4"],
            "method.prune.sparsity: there is no key 'prune' in method with method=quant; allowed: quant",
        ),
        (["method=glob(distill/*)"], "nothing matches, so there would be no run; allowed: prune, quant, prune/magn"),
        (["seed=interval(0,1)"], "seed=interval(0,1): a grid needs single values"),
    ],
)
def test_one_bad_job_refuses_all_before_anything_runs(app: Path, overrides: list[str], sentence: str) -> None:
    ran: list[DictConfig] = []
    with pytest.raises(UserError) as error:
        sweep(app, ran.append, *overrides)
    assert sentence in str(error.value)
    assert not ran


def test_lists_and_names_mix_and_parameters_of_the_second_choice_can_be_set(app: Path) -> None:
    seen: list[list[str]] = []
    sweep(app, lambda config: seen.append(list(config.method)), "method=prune,[quant,prune],quant", identify="null")
    assert seen == [["prune"], ["quant", "prune"], ["quant"]]
    bits: list[int] = []
    sweep(
        app,
        lambda config: bits.append(config.method.quant.bits),
        "method=quant,[prune,quant]",
        "method.quant.bits=4",
        identify="null",
    )
    assert bits == [4, 4]


def test_a_pattern_reaches_into_folders(app: Path) -> None:
    seen: list[Any] = []
    sweep(app, lambda config: seen.append("warmup" in config.method.prune), "method=glob(prune/*)", identify="null")
    assert seen == [False, True]


def test_a_grid_from_a_file_gives_way_to_the_command_line(app: Path) -> None:
    config = app / "conf" / "config.yaml"
    config.write_text(config.read_text() + "  sweeper: {params: {method: 'prune,[prune,quant]', seed: '1,2'}}\n")
    seen: list[str] = []
    sweep(app, lambda config: seen.append(f"{'+'.join(config.method)}{config.seed}"), "seed=7", identify="null")
    assert seen == ["prune7", "prune+quant7"]


def test_what_is_finished_is_shown_when_the_sweep_is_interrupted(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def task(config: DictConfig) -> Any:
        if config.seed == 1:
            raise KeyboardInterrupt
        return finish(config)

    with pytest.raises(KeyboardInterrupt):
        sweep(app, task, "seed=0,1,2")
    assert capsys.readouterr().out.count("0.9000") == 1


def test_a_launcher_that_breaks_is_a_failure_after_the_table(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def task(config: DictConfig) -> Any:
        (app / "conf" / "method" / "prune.yaml").unlink()
        return finish(config)

    with pytest.raises(SweepFailed):
        sweep(app, task, "method=prune", "seed=0,1")
    out = capsys.readouterr().out
    assert out.index("0.9000") < out.index("  method=prune seed=1: ")


def test_failures_are_told_even_where_the_table_cannot_be_written(
    app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def task(config: DictConfig) -> Any:
        if config.seed == 1:
            raise UserError("seed: one is unlucky")
        (app / "out" / "reports").write_text("a file where the directory should be")
        return finish(config)

    with pytest.raises(SweepFailed):
        sweep(app, task, "seed=0,1")
    out = capsys.readouterr().out
    assert "no table: " in out
    assert "  seed=1: seed: one is unlucky\n" in out


def test_what_is_there_is_not_launched_again(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(app, finish, "method=prune", "seed=0,1")
    launched: list[DictConfig] = []
    sweep(app, launched.append, "seed=1,0", "method=prune")
    assert launched == []
    assert capsys.readouterr().out.count("2 of 2 runs are finished") == 1
    with pytest.raises(SweepFailed):
        sweep(app, launched.append, "method=prune", "seed=0,1,2")
    assert [config.seed for config in launched] == [2]


def test_what_runs_share_is_launched_first_and_its_failure_fails_those_alone(
    app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, order = Store(app / "out" / "artifacts"), []

    def build(directory: Path, check: Callable[[], None]) -> dict[str, Any]:
        (directory / "x").write_text("x")
        return {}

    def task(config: DictConfig) -> Any:
        order.append((config.seed, config.until, *config.method))
        if config.until is None:
            return finish(config)
        if config.seed == 1:
            raise UserError("task.data_dir: nothing there")
        level = 0 if config.until == "baseline" else config.until
        key = identify(config).chain[level]
        made = store.get({"seed": config.seed, "level": level}, build, "x")
        made.rename(made.with_name(key))
        return None

    with pytest.raises(SweepFailed, match="2 of 4 runs failed"):
        sweep(app, task, "method=prune,[quant,prune]", "seed=0,1")
    assert order[:2] == [(0, "baseline", "prune"), (1, "baseline", "prune")]
    assert sorted(order[2:]) == [(0, None, "prune"), (0, None, "quant", "prune")]
    assert "method=prune seed=1: until=baseline: task.data_dir: nothing there" in capsys.readouterr().out


def test_the_manifest_tells_members_states_and_reasons(app: Path) -> None:
    def task(config: DictConfig) -> Any:
        if config.seed == 1:
            raise UserError("seed: one is unlucky")
        return finish(config)

    with pytest.raises(SweepFailed):
        sweep(app, task, "seed=0,1")
    (path,) = (app / "out" / "sweeps").glob("*/sweep.json")
    content = json.loads(path.read_text())
    assert [(row["overrides"], row["state"], row["reason"]) for row in content["members"]] == [
        (["seed=0"], "finished", None),
        (["seed=1"], "failed", "seed: one is unlucky"),
    ]


def test_a_sweep_of_failures_leaves_a_page_of_their_reasons(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def task(config: DictConfig) -> Any:
        raise UserError("seed: all are unlucky")

    with pytest.raises(SweepFailed):
        sweep(app, task, "seed=0,1")
    assert "report.html: 2 that are not finished" in capsys.readouterr().out
    assert (app / "out" / "reports" / "report.html").read_text().count("<td>seed: all are unlucky</td>") == 2


def test_nothing_to_show_shows_nothing(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(app, lambda config: None, "seed=0,1", identify="null")
    assert capsys.readouterr().out == "[1/2] seed=0\n[2/2] seed=1\n"
    assert not (app / "out" / "reports").exists()


def test_combinations_keep_quotes_deletions_and_the_last_of_two(app: Path) -> None:
    known: ConfigLoader = loader(app)
    assert combinations(["a='x,y'", "~b", "+c=1,2", "d={e: 1}", "a2=3", "a2=4"], known) == [
        ["a='x,y'", "~b", "+c=1", "d={e: 1}", "a2=4"],
        ["a='x,y'", "~b", "+c=2", "d={e: 1}", "a2=4"],
    ]
    assert combinations([], known) == [[]]
    with pytest.raises(HydraException):
        combinations(["a=[1,"], known)

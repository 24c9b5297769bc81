"""Searches as a person starts them: killed, started twice, continued, failing, with every mistake in one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from compress_exp.config.checks import UserError
from compress_exp.config.refusal import SweepFailed
from tests.search.app import done, formulas, records, sweep

ROOT = Path(__file__).resolve().parents[2]
SPACE = (
    "method=quant,prune,[prune,quant]",
    "method.prune.sparsity=interval(0.2,0.9)",
    "method.quant.bits=range(2,9)",
    "method.quant.scale=2.0",
)


def trials(outputs: Path) -> list[FrozenTrial]:
    (file,) = outputs.glob("searches/*.db")
    return optuna.load_study(study_name=file.stem, storage=f"sqlite:///{file}").trials


def start(conf: Path, *overrides: str, pause: float = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.search.app", str(conf), *SPACE, *overrides]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, text=True, env={**os.environ, "PAUSE": str(pause)}, **streams)


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


def rows(out: str) -> dict[str, list[str]]:
    """The cells of the table of the Pareto set, by trial."""
    lines = out[out.rindex("Pareto set\n") :].splitlines()
    table = lines[next(i for i, line in enumerate(lines) if "─" in line) + 1 :]
    table = table[: next(i for i, line in enumerate(table) if line.startswith("trial "))]
    return {cells[0]: cells[1:] for line in table if (cells := line.split())}


def test_it_ends_with_the_pareto_set_on_both_rows_and_commands(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = conf.parent / "out"
    sweep(conf, *SPACE, "hydra.sweeper.n_trials=9", "hydra.sweeper.n_jobs=3")
    out = capsys.readouterr().out
    found = trials(outputs)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 9
    for trial in found:
        values = {key: value for key, value in trial.params.items() if key != "method"}
        method: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            method.setdefault(key.split(".")[1], {})[key.split(".")[2]] = float(value)
        if "prune" in method:
            drawn = next(i for i in trial.user_attrs["overrides"] if i.startswith("method.prune.sparsity="))
            method["prune"]["sparsity"] = float(drawn.split("=")[1])
        assert trial.values == pytest.approx(formulas(method))
        assert set(method) == set(trial.params["method"].strip("[]").split(","))
    points = [trial.values for trial in found]
    best = [
        str(trial.number + 1)
        for trial in found
        if not any(o[0] >= trial.values[0] and o[1] <= trial.values[1] and o != trial.values for o in points)
    ]
    table = rows(out)
    assert set(table) <= set(best) and {tuple(found[int(n) - 1].values) for n in table} == {
        tuple(found[int(n) - 1].values) for n in best
    }
    for number, cells in table.items():
        quality, size = found[int(number) - 1].values
        assert cells[-4:] == [f"{quality:.4g}", f"{quality - 0.01:.4g}", f"{size * 1e-6:.4g}", "MB"]
        (line,) = [line for line in out.splitlines() if line.startswith(f"trial {number}: python -m compress_exp ")]
        assert "task.holdout=0.1" in line and "task.evaluate_on=validation" in line
        assert all(item in line.replace("'", "") for item in trial_overrides(found[int(number) - 1]))
    splits = [record["quality"]["split"] for record in records(outputs)]
    assert splits.count("validation") == len(table) and splits.count("holdout") == len(records(outputs)) - len(table)
    assert [line for line in out.splitlines() if line.startswith("trial 9/9 ")]


def trial_overrides(trial: FrozenTrial) -> list[str]:
    return [item for item in trial.user_attrs["overrides"] if "evaluate_on" not in item]


def test_a_killed_search_goes_on_to_the_total_and_draws_what_it_would_have_drawn(conf: Path, tmp_path: Path) -> None:
    outputs, settings = conf.parent / "out", ("hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=2")
    process = start(conf, *settings, pause=0.3)
    while len(done(outputs)) < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = [trial for trial in trials(outputs) if trial.state is TrialState.RUNNING]
    assert left and not any(trial.values for trial in left)
    before = len(done(outputs))
    again = finish(start(conf, *settings))
    assert "of 8 trials are done" in again
    found = trials(outputs)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 8
    runs = done(outputs)
    assert len(runs) - len(set(runs)) <= 1, "only the run in which it was killed is done twice"
    finish(start(conf, *settings, f"outputs={tmp_path / 'undisturbed'}"))
    undisturbed = trials(tmp_path / "undisturbed")
    assert [trial.params for trial in undisturbed] == [trial.params for trial in found]
    assert [trial.values for trial in undisturbed] == [trial.values for trial in found]
    third = finish(start(conf, *settings))
    assert done(outputs) == runs and len(runs) > before
    assert rows(third) == rows(again)


def test_two_at_once_share_a_study_and_do_nothing_twice(conf: Path) -> None:
    outputs = conf.parent / "out"
    processes = [start(conf, "hydra.sweeper.n_trials=8", pause=0.2) for _ in range(2)]
    outs = [finish(process) for process in processes]
    assert sum("waiting for process" in out for out in outs) == 1
    assert [trial.state for trial in trials(outputs)] == [TrialState.COMPLETE] * 8
    assert len(done(outputs)) == len(set(done(outputs)))
    assert rows(outs[0]) == rows(outs[1])
    assert not list(outputs.glob("searches/.*.lease"))


def test_more_trials_continue_and_the_order_of_writing_does_not_matter(conf: Path) -> None:
    outputs = conf.parent / "out"
    sweep(conf, *SPACE, "hydra.sweeper.n_trials=3")
    sweep(conf, *reversed(SPACE), "hydra.sweeper.n_trials=5", "hydra.sweeper.sampler=random")
    assert len(trials(outputs)) == 5
    sweep(conf, *SPACE, "hydra.sweeper.n_trials=2", "hydra.sweeper.study_name=mine")
    assert sorted(path.stem for path in outputs.glob("searches/*.db"))[0] == "mine"


def test_a_study_goes_on_in_another_place(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = f"hydra.sweeper.storage=sqlite:///{conf.parent / 'shared.db'}"
    sweep(conf, *SPACE, database, "hydra.sweeper.n_trials=3", "hydra.sweeper.study_name=s")
    other = conf.parent / "other"
    sweep(conf, *SPACE, database, "hydra.sweeper.n_trials=6", "hydra.sweeper.study_name=s", f"outputs={other}")
    out = capsys.readouterr().out
    assert "s: 3 of 6 trials are done" in out
    assert len(set(done(other))) >= len(rows(out))
    assert out.rstrip().endswith(f"outputs={other}")
    assert not list(other.glob("searches/*.db"))


def test_failed_trials_count_and_are_listed(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(conf, "method.prune.sparsity=0.1,0.2,0.3", "unlucky=0.2", "hydra.sweeper.n_trials=6")
    out = capsys.readouterr().out
    found = trials(conf.parent / "out")
    failed = [trial for trial in found if trial.state is TrialState.FAIL]
    assert len(found) == 6 and 0 < len(failed) < 6
    assert f"{len(failed)} of 6 trials failed:" in out
    assert f"  trial {failed[0].number + 1}: method.prune.sparsity: out of luck" in out


def test_what_stops_every_run_from_outside_stops_the_search_until_it_is_mended(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs, search = conf.parent / "out", ("method.prune.sparsity=interval(0.2,0.3)", "hydra.sweeper.n_trials=4")
    sweep(conf, *search)
    before = done(outputs)
    (outputs / "full").touch()
    more = (search[0], "hydra.sweeper.n_trials=8")
    with pytest.raises(SweepFailed, match="nothing of 2 batches came back; the same command goes on with them"):
        sweep(conf, *more)
    assert "trial 6/8" in (out := capsys.readouterr().out) and "trial 7/8" not in out
    assert "lost, to be tried once more: outputs: there is no room" in out
    (outputs / "full").unlink()
    sweep(conf, *more)
    found = trials(outputs)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 8
    assert "4 of 8 trials are done" in capsys.readouterr().out and done(outputs)[: len(before)] == before


def test_nothing_but_failures_is_a_failure(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with pytest.raises(SweepFailed, match="no trial has finished"):
            sweep(conf, "method.prune.sparsity=interval(0.2,0.3)", "unlucky=0.1", "hydra.sweeper.n_trials=2")
    assert "2 of 2 trials failed" in capsys.readouterr().out
    assert len(trials(conf.parent / "out")) == 2


def test_a_share_of_ones_own_is_kept_and_none_looks_where_the_task_says(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(conf, "seed=1,2", "task.holdout=0.25", "task.evaluate_on=test", "hydra.sweeper.n_trials=2")
    out = capsys.readouterr().out
    assert "task.holdout=0.25 task.evaluate_on=test" in out and "holdout" in out and "task.holdout=0.1" not in out
    assert {record["quality"]["split"] for record in records(conf.parent / "out")} == {"holdout", "test"}
    sweep(conf, "seed=1,2", "task.holdout=0", f"outputs={conf.parent / 'other'}", "hydra.sweeper.n_trials=2")
    assert {record["quality"]["split"] for record in records(conf.parent / "other")} == {None}
    assert "holdout=0.1" not in capsys.readouterr().out


def test_the_space_can_be_kept_in_a_file(conf: Path) -> None:
    file = conf / "config.yaml"
    params = "{method: 'prune,quant', method.quant.bits: 'range(2,9)', seed: '1,2,3'}"
    file.write_text(file.read_text().replace("  sweeper: {", f"  sweeper: {{n_trials: 6, params: {params}, "))
    sweep(conf, "seed=7")
    found = trials(conf.parent / "out")
    assert {key for trial in found for key in trial.params} == {"method", "method.quant.bits"}
    assert all("seed=7" in trial.user_attrs["overrides"] for trial in found)


def test_the_direction_of_the_primary_metric_is_the_tasks(conf: Path) -> None:
    sweep(conf, "method.prune.sparsity=interval(0.2,0.9)", "objectives=[quality/primary]", "hydra.sweeper.n_trials=1")
    sweep(conf, "task.name=perplexity", "seed=1,2", "objectives=[quality/primary]", "hydra.sweeper.n_trials=1")
    files = (conf.parent / "out" / "searches").glob("*.db")
    studies = [optuna.load_study(study_name=file.stem, storage=f"sqlite:///{file}") for file in files]
    assert {("task.name=perplexity" in str(s.user_attrs), s.directions[0].name) for s in studies} == {
        (False, "MAXIMIZE"),
        (True, "MINIMIZE"),
    }


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["seed=3"], "a search needs something to choose, such as method=prune,quant"),
        (["method=prune,quan"], "method=quan: there is no such choice; did you mean quant"),
        ([*SPACE[:2], "method.quant.bit=4"], "method.quant.bit: there is no key 'bit' in method.quant"),
        (["method=prune,quant", "method.factor.x=interval(0,1)"], "method.factor.x: there is no key 'factor'"),
        ([*SPACE, "objectives=[size/bytes]"], "the direction of 'size/bytes' is not known"),
        ([*SPACE, "plan=true"], "plan: a search goes by measured runs"),
        ([*SPACE, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials: 0 is not allowed, a number of at least 1 is"),
        ([*SPACE, "hydra.sweeper.n_jobs=some"], "hydra.sweeper.n_jobs: 'some' is not allowed, a whole number"),
        ([*SPACE, "hydra.sweeper.sampler=tp"], "hydra.sweeper.sampler: 'tp' is not allowed; did you mean tpe?"),
        (
            [*SPACE, "hydra.sweeper.storage=postgresql+nosuch://u:secret@h/d"],
            "postgresql+nosuch://u:…@h/d cannot be used",
        ),
        (["seed=13", "method=prune,quant"], "seed: 13 is unlucky"),
    ],
)
def test_mistakes_are_told_in_one_sentence_before_anything_runs(
    conf: Path, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        sweep(conf, *overrides)
    assert sentence in str(error.value) and "\n" not in str(error.value) and "secret" not in str(error.value)
    assert not done(conf.parent / "out")
    assert not list((conf.parent / "out").glob("searches/*.db"))


def test_a_combination_that_cannot_work_is_a_failed_trial_only(conf: Path) -> None:
    sweep(conf, "seed=12,13", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler=random", "hydra.sweeper.seed=1")
    found = trials(conf.parent / "out")
    assert {(trial.params["seed"], trial.state.name) for trial in found} == {("12", "COMPLETE"), ("13", "FAIL")}
    assert {trial.user_attrs.get("reason") for trial in found} == {None, "seed: 13 is unlucky"}


def test_a_password_is_neither_printed_nor_written(conf: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db?password=secret"
    process = start(conf, "hydra.sweeper.n_trials=2", f"hydra.sweeper.storage='{url}'")
    out, _ = process.communicate(timeout=60)
    assert "secret" not in out
    written = [path for path in (conf.parent / "out").rglob("*") if path.is_file()]
    assert all(b"secret" not in path.read_bytes() for path in written)


def test_without_optuna_one_sentence_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['optuna'] = None\n"
        "from compress_exp.cli.main import main\n"
        "sys.exit(main(['hydra/sweeper=optuna', '-m', 'method=prune,quant']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "hydra/sweeper=optuna: Optuna is not installed; pip install 'compress_exp[optuna]'\n"


def test_starting_loads_nothing_heavy() -> None:
    code = (
        "import sys, hydra_plugins.compress_exp.search, compress_exp.outputs.objectives, compress_exp.search.space\n"
        "print([name for name in ('optuna', 'sqlalchemy', 'torch', 'rich') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"

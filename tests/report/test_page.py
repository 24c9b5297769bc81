from __future__ import annotations

import io
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from scipy import stats

from compress_exp.config.secrecy import safe
from compress_exp.outputs.records import read
from compress_exp.report.analysis.badges import mark
from compress_exp.report.analysis.describe import command
from compress_exp.report.analysis.entries import Entry, fold
from compress_exp.report.analysis.majority import Majority
from compress_exp.report.analysis.pareto import front
from compress_exp.report.page.cost import seconds
from compress_exp.report.page.curves import Histories
from compress_exp.report.page.sections import sections
from compress_exp.report.page.waterfall import measured, merged, steps, waterfalls
from compress_exp.report.page.write import gather, render
from compress_exp.report.summary import report
from tests.report import synthetic
from tests.report.test_tables import record, save


def page_data(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def runs(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if not entry.is_dense]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.outputs(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def html(many: Path) -> str:
    return render(many, gather(many, read(many)[0]), None)


def test_500_records_make_one_page_that_loads_nothing(html: str) -> None:
    class Loads(HTMLParser):
        found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [value or "" for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]

    parser = Loads()
    parser.feed(html)
    assert parser.found == ["data:,"]
    data = page_data(html)
    listed = [run for part in data["sections"] for entry in part["entries"] for run in entry.get("runs", [])]
    assert len(listed) == len(set(listed)) == 500
    reasons = ["CUDA out of memory: 81 MB were asked for", "method.prune.sparsity=1.5: at most 1"]
    for reason in [*reasons, "nothing of it is there; the same command runs it"]:
        assert f"<td>{reason}</td>" in html


def test_plotly_knows_every_figure(html: str) -> None:
    data = page_data(html)
    for part in data["sections"]:
        figures = [figure for figure in part["figures"].values() if figure is not None]
        figures += [figure for entry in part["entries"][:20] for figure in entry.get("waterfalls", [])]
        for figure in figures:
            go.Figure(figure)  # refuses what it does not know


@pytest.mark.parametrize("seed", range(5))
def test_the_pareto_front_is_that_of_brute_force(seed: int) -> None:
    chance = random.Random(seed)
    values = [*range(12), None]
    points = [(chance.choice(values), chance.choice(values)) for _ in range(120)]

    def beaten(one: int) -> bool:
        cost, gain = points[one]
        return any(
            c is not None and g is not None and c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points
        )

    expected = {i for i, (cost, gain) in enumerate(points) if cost is not None and gain is not None and not beaten(i)}
    found = front(points)
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


def test_the_fronts_of_the_page_are_those_of_brute_force(many: Path) -> None:
    for part in sections(read(many)[0], Majority(many / "none")):
        sign = 1 if part.higher_is_better else -1
        for (_, listed), cost in zip(part.fronts(), ("artifact_bytes", "p50"), strict=True):
            points = {
                index: (getattr(entry, cost), sign * entry.quality.value)
                for index, entry in enumerate(part.entries)
                if getattr(entry, cost) is not None and entry.quality.value is not None
            }
            expected = {
                index
                for index, (own, gain) in points.items()
                if not any(c <= own and g >= gain and (c < own or g > gain) for c, g in points.values())
            }
            assert set(listed) == expected


def seeds(values: list[float], dense: list[float], speeds: list[float]) -> list[dict[str, Any]]:
    made = []
    for seed, (value, base, speed) in enumerate(zip(values, dense, speeds, strict=True)):
        item = record(
            f"r{seed}",
            run__method=["quant/int8"],
            run__seed=seed,
            run__overrides=["method=quant", f"seed={seed}", "tracking=disabled"],
            quality__primary__value=value,
            quality__baseline={"accuracy": base},
            quality__retained=value / base,
            origin__baseline=f"b{seed}",
        )
        item["latency"]["rows"][0]["speedup"] = speed
        made.append(item)
    return made


def test_seeds_become_mean_and_interval_as_computed_by_hand() -> None:
    values, dense, speeds = [0.90, 0.92, 0.94], [0.95, 0.95, 0.96], [2.0, 2.2, 2.4]
    made = fold(seeds(values, dense, speeds))
    assert [entry.method for entry in made] == ["dense", "quant/int8"]
    base, entry = made
    assert entry.seeds == ["0", "1", "2"]
    # mean 0.92, standard deviation 0.02, t(2) = 4.302653: 4.302653 · 0.02 / √3 = 0.049683
    assert entry.quality.value == pytest.approx(0.92)
    assert entry.quality.half == pytest.approx(0.049683, abs=1e-6)
    # differences −0.05, −0.03, −0.02: mean −0.0333, half 0.03795, so zero is inside
    assert entry.quality.noise
    assert entry.speedup.value == pytest.approx(2.2)
    low, high = stats.t.interval(0.95, 2, loc=2.2, scale=stats.sem(speeds))
    assert (entry.speedup.low, entry.speedup.high) == pytest.approx((low, high))
    assert not entry.speedup.noise
    assert base.quality.value == pytest.approx(np.mean(dense))
    assert entry.retained == pytest.approx(np.mean([v / d for v, d in zip(values, dense, strict=True)]))
    assert entry.score({"accuracy": 1, "compression": 1, "speed": 1}) == pytest.approx(0.92 + 4 + 2.2)


def test_a_difference_that_every_seed_shows_is_no_noise() -> None:
    entry = fold(seeds([0.90, 0.91, 0.92], [0.95, 0.96, 0.97], [0.99, 1.0, 1.02]))[1]
    assert not entry.quality.noise
    assert entry.speedup.noise


def test_one_seed_keeps_its_own_intervals() -> None:
    item = record("a", quality__interval=[0.91, 0.95], quality__baseline_interval=[0.93, 0.97])
    item["latency"]["rows"][0]["speedup_interval"] = [0.97, 1.02]
    entry = fold([item])[1]
    assert (entry.quality.low, entry.quality.high) == (0.91, 0.95)
    assert entry.quality.noise  # 0.02 apart, √(0.02² + 0.02²) = 0.028
    assert entry.speedup.noise
    item["quality"]["baseline_interval"] = [0.949, 0.951]
    item["quality"]["interval"] = [0.929, 0.931]
    assert not fold([item])[1].quality.noise


@pytest.mark.parametrize(
    ("speed", "ends", "shown"),
    [(2.0, [1.9, 2.1], "2.00× faster"), (2.0, [0.9, 3.1], "2.00× faster ≈"), (0.9, [0.8, 0.95], "0.90× as fast")],
)
def test_the_fastest_says_where_it_is_slower_or_that_may_be_chance(speed: float, ends: list[float], shown: str) -> None:
    item = record("a", quality__retained=1.0, latency__rows__0__speedup_interval=ends)
    item["latency"]["rows"][0]["speedup"] = speed
    (section,) = sections([item], Majority(Path("nowhere")))
    cards = section.cards({"accuracy": 1, "compression": 1, "speed": 1})
    assert ("fastest that keeps 99 %", shown, 1) in cards


def test_what_differs_in_more_than_the_seed_stays_apart() -> None:
    items = seeds([0.9, 0.9, 0.9, 0.9], [0.95] * 4, [2.0] * 4)
    items[1]["run"]["overrides"].append("train.epochs=3")
    items[2]["origin"]["methods"] = [{"method": "x", "bits": 4}]
    items[3]["run"]["seed"] = 0  # the same seed twice is no second seed
    made = runs(fold(items))
    assert len(made) == 4
    assert all(len(entry.seeds) == 1 for entry in made)
    assert [entry.changes for entry in made].count("train.epochs=3") == 1


def test_a_seed_without_quality_is_left_out_of_the_mean() -> None:
    items = seeds([0.90, math.nan, 0.94], [0.95] * 3, [2.0] * 3)
    entry = fold(items)[1]
    assert entry.quality.value == pytest.approx(0.92)
    assert len(entry.seeds) == 3


def test_only_what_was_measured_alike_is_compared(tmp_path: Path) -> None:
    same = [record("a"), record("b", run__seed=1, origin__baseline="b1")]
    other = [
        record("c", quality__rows=100),
        record("d", quality__split="test"),
        record("e", quality__settings={"rows": "another file"}),
        record("f", run__runtime={"name": "eager", "threads": 1}),
        record("g", latency__rows__0__length=32),
        record("h", origin__cpu="another"),
    ]
    made = sections([*same, *other], Majority(tmp_path))
    assert len(made) == 7
    assert [entry.is_dense for entry in made[0].entries] == [True, False, True, False]
    assert all(len(part.entries) == 2 for part in made[1:])


def badges(*records: dict[str, Any], majority: Path = Path("nowhere")) -> dict[str, list[str]]:
    entries = fold(records)
    mark(entries, Majority(majority))
    return {entry.label: [name for name, _ in entry.badges] for entry in entries}


def test_badge_of_what_is_slower() -> None:
    slow = record("slow")
    slow["latency"]["rows"][0]["speedup"] = 0.8
    assert badges(slow, record("quick")) == {"dense": [], "slow": ["slower"], "quick": []}


def test_what_several_seeds_noted_is_one_badge() -> None:
    seeds = [record("a", flags=["zeros", "cores: 0.4"]), record("a", run__seed=1, flags=["zeros", "cores: 0.5"])]
    _, entry = entries = fold(seeds)
    mark(entries, Majority(Path("nowhere")))
    assert entry.badges == [("note", "zeros"), ("cores", "cores: 0.4; cores: 0.5")]


def test_badge_of_few_rows() -> None:
    found = badges(record("a", quality__rows=499), record("b", quality__rows=500))
    assert found["a"] == ["few rows"]
    assert found["b"] == []


def test_badge_of_a_student_that_would_be_better_without_its_teacher() -> None:
    def student(name: str, loss: str, value: float, layers: int = 2) -> dict[str, Any]:
        method = {"method": "Student", "layers": layers, "loss": {"loss": loss}}
        item = record(name, quality__primary__value=value)
        item["run"] |= {"method": [f"distill/{name[:4]}"], "loss": [loss]}
        item["run"]["overrides"] = [f"method=distill/{name[:4]}", f"method.distill.layers={layers}"]
        item["origin"]["methods"] = [method]
        return item

    hard = student("hard", "TaskLoss", 0.92)
    assert badges(hard, student("soft", "SoftTargets", 0.91))["distill/soft"] == ["teacher harms"]
    assert badges(hard, student("soft", "SoftTargets", 0.93))["distill/soft"] == []
    other = badges(hard, student("soft", "SoftTargets", 0.91, layers=3))
    assert "teacher harms" not in [name for names in other.values() for name in names]


def test_badge_of_a_baseline_no_better_than_the_majority_class(tmp_path: Path) -> None:
    settings = {"kind": "classification", "rows": "abc", "classes": ["0", "1"], "regression": False}
    place = tmp_path / "e0"
    place.mkdir()
    (place / "recipe.json").write_text(json.dumps({"task": settings}))
    save_file({"labels": np.array([1] * 96 + [0] * 4)}, place / "predictions.safetensors")
    item = record("a", quality__settings=settings)  # dense 0.95, majority 0.96
    assert badges(item, majority=tmp_path) == {"dense": ["weak baseline"], "a": ["weak baseline"]}
    save_file({"labels": np.array([1] * 94 + [0] * 6)}, place / "predictions.safetensors")
    assert badges(item, majority=tmp_path) == {"dense": [], "a": []}


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


def test_a_run_named_script_does_no_harm(tmp_path: Path) -> None:
    item = record(EVIL, run__method=[EVIL], run__model=EVIL, run__task=EVIL, run__hardware=EVIL, flags=[EVIL])
    item["run"]["overrides"] = [f"method.prune.select={EVIL}"]
    item["origin"]["methods"] = [{"method": EVIL, EVIL: EVIL}]
    item["stages"] = [{"methods": [EVIL], "artifact": "x", "seconds": 1.0, "steps": 1, "bytes": 1_000_000}]
    item["quality"]["primary"]["name"] = EVIL
    item["quality"]["baseline"] = {EVIL: 0.95}
    place = tmp_path / "runs" / "evil"
    place.mkdir(parents=True)
    (place / "record.json").write_text(json.dumps(item))
    page = render(tmp_path, gather(tmp_path, read(tmp_path)[0]), None)
    tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert not [name for name, _ in attrs if name.startswith("on")]

    Tags().feed(page)
    assert "img" not in tags
    assert tags.count("script") == 5  # data, Plotly, and three of the page's own
    assert "alert(1)</script>" not in page
    assert ">49<" not in page
    facts = page_data(page)["sections"][0]["entries"][1]
    assert facts["label"].startswith(EVIL)  # text for the script, which never parses it
    figures = json.dumps([page_data(page)["sections"][0]["figures"], facts["waterfalls"]])
    shown = re.sub(r'"meta": \{.*?\}', "", figures.replace(json.dumps(EVIL)[1:-1], "EVIL"))
    assert "EVIL" not in shown.replace('"method": "EVIL"', "").replace('"model": "EVIL"', "")  # Plotly reads markup


def test_secrets_and_the_home_directory_stay_out(tmp_path: Path) -> None:
    home = str(Path.home())
    item = record("a", run__command=f"python -m compress_exp tracking.api_key=hunter2 task.data_dir={home}/data")
    item["run"]["overrides"] = ["+api_key=hunter2", "url=https://me:hunter2@host/x", f"task.data_dir={home}/data"]
    item["origin"]["methods"] = [{"method": "x", "token": "hunter2", "path": f"{home}/x"}]
    save(tmp_path, item, record("b"))
    for path in report(tmp_path, console=Console(file=io.StringIO())):
        assert "hunter2" not in path.read_text()
        assert f"{home}/data" not in path.read_text()


def test_the_command_makes_the_one_run_again() -> None:
    item = record("a", run__command="python -m compress_exp -m --config-dir 'my conf' method=a,b seed=0,1")
    item["run"]["overrides"] = ["method=[a,b]", "seed=1"]
    assert command(item) == "python -m compress_exp --config-dir 'my conf' 'method=[a,b]' seed=1"


def test_the_waterfall_takes_stages_from_their_own_runs_and_joins_what_nobody_measured() -> None:
    path = [
        {"methods": ["a"], "artifact": "A", "bytes": 3_000_000},
        {"methods": ["b"], "artifact": "B", "bytes": 2_000_000},
    ]
    last = {"methods": ["c"], "artifact": "C", "bytes": 1_000_000}
    first = record("first", run__method=["a"], origin__artifact="A", quality__primary__value=0.94)
    first["stages"] = path[:1]
    first["latency"]["rows"][0]["speedup"] = 1.25
    full = record("full", run__method=["a", "b", "c"], origin__artifact="C")
    full["stages"] = [*path, last]
    found = steps(full, measured(fold([first, full])))
    assert [step.label for step in found] == ["dense", "a", "b", "c"]
    assert [step.quality for step in found] == [0.95, 0.94, None, 0.93]
    assert [step.megabytes for step in found] == [4, 3, 2, 1]
    assert [step.milliseconds for step in found] == [2.0, 1.6, None, 1.0]
    assert merged(["dense", "a", "b", "c"], [0.95, 0.94, None, 0.93]) == [("dense", 0.95), ("a", 0.94), ("b → c", 0.93)]
    quality = waterfalls(found, "accuracy", True)[0]["data"][0]
    assert quality["y"] == pytest.approx([0.95, -0.01, -0.01, 0])
    assert sum(quality["y"]) == pytest.approx(0.93)


def test_shared_work_counts_once() -> None:
    def item(name: str, stages: list[tuple[str, float]]) -> dict[str, Any]:
        made = record(name)
        made["stages"] = [{"methods": [key], "artifact": key, "seconds": value} for key, value in stages]
        made["cost"] = {"baseline_seconds": 100.0, "measuring_seconds": 5.0}
        return made

    spent = seconds([item("one", [("p", 30.0)]), item("two", [("p", 30.0), ("q", 7.0)])])
    assert spent == {
        "training the dense model": {"tiny": 100.0},
        "compressing": {"p": 30.0, "q": 7.0},
        "measuring": {"one": 5.0, "two": 5.0},
    }


def test_curves_are_those_of_the_chain_and_keep_their_end(tmp_path: Path) -> None:
    for key, steps_done in (("b0", 500), ("C", 40)):
        (tmp_path / key).mkdir()
        (tmp_path / key / "build.json").write_text(json.dumps({"steps": steps_done}))
        rows = [f"{step},{step / 7},{'' if step % 2 else step}" for step in range(steps_done)]
        (tmp_path / key / "history.csv").write_text("\n".join(["step,loss,sparsity", *rows]) + "\n")
    item = record("a")
    item["stages"] = [{"methods": ["gone"], "artifact": "gone"}, {"methods": ["c"], "artifact": "C"}]
    histories = Histories(tmp_path)
    assert histories.chain(item) == ["b0", "C"]
    known = histories.known()
    assert known["b0"]["x"][-1] == 499
    assert len(known["b0"]["x"]) <= 60
    assert [(curve["name"], curve["kind"]) for curve in known["C"]["curves"]] == [
        ("loss", "loss"),
        ("sparsity", "state"),
    ]
    item["stages"] = [{"artifact": "../../etc"}]
    assert histories.chain(item) == ["b0"]


def _without(path: tuple[str, ...]) -> Callable[[dict[str, Any]], None]:
    def change(item: dict[str, Any]) -> None:
        node = item
        for part in path[:-1]:
            node = node[part]
        node.pop(path[-1], None)

    return change


@pytest.mark.parametrize(
    "path",
    [("run", "method"), ("run", "seed"), ("run", "overrides"), ("run", "runtime"), ("quality", "primary"), ("origin",)]
    + [("quality", "baseline"), ("latency", "rows"), ("size", "artifact_bytes"), ("stages",), ("cost",), ("score",)],
    ids=".".join,
)
def test_whatever_is_missing_the_page_is_made(tmp_path: Path, path: tuple[str, ...]) -> None:
    item = synthetic.record(random.Random(0), "sst2", "bert", ("distill/soft_targets", "quant/int8"), 0.5, 0)
    item["score"] = {"weights": synthetic.WEIGHTS}
    _without(path)(item)
    whole = synthetic.record(random.Random(0), "sst2", "bert", ("quant/int8",), 0.5, 1)
    made = render(tmp_path, gather(tmp_path, [safe(item), whole]), None)
    assert len(page_data(made)["sections"]) >= 1


def test_the_command_writes_page_and_tables_of_the_tasks_asked_for(tmp_path: Path) -> None:
    save(tmp_path, record("a"), record("b_1%", run__task="other"))
    base = [sys.executable, "-m", "compress_exp.report", str(tmp_path)]
    done = subprocess.run([*base, "--task", "other"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "report.html: 1 run; beside it table.csv, table.md, table.tex" in done.stdout
    reports = tmp_path / "reports"
    assert [part["entries"][1]["label"] for part in page_data((reports / "report.html").read_text())["sections"]] == [
        "b_1%"
    ]
    tex = (reports / "table.tex").read_text()
    assert r"b\_1\%" in tex
    assert r"\toprule" in tex
    none = subprocess.run([*base, "--task", "nothing"], capture_output=True, text=True, check=False)
    assert none.returncode == 1
    assert "there are no finished runs of nothing, only of other, reviews" in none.stdout

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compress_exp.outputs.records import read
from compress_exp.outputs.score import weighted_score
from compress_exp.report.summary import report
from compress_exp.report.table import rows
from tests.report import synthetic

WEIGHTS = {"accuracy": 1, "compression": 1, "speed": 1}


def record(name: str, **changes: Any) -> dict[str, Any]:
    """A small record by hand: dense 0.95, 4 MB, 2 ms."""
    quality = {
        "primary": {"name": "accuracy", "value": 0.93, "higher_is_better": True},
        "baseline": {"accuracy": 0.95, "f1": 0.94},
        "retained": 0.93 / 0.95,
    }
    size = {"artifact_bytes": 1_000_000, "baseline_artifact_bytes": 4_000_000, "compression_ratio": 4.0}
    row = {
        "batch_size": 1,
        "length": 128,
        "p50_ms": 1.0,
        "p99_ms": 1.5,
        "baseline": {"p50_ms": 2.0, "p99_ms": 2.5},
        "speedup": 2.0,
        "speedup_interval": [1.9, 2.1],
        "speedup_over_eager": 3.0,
    }
    made = {
        "run": {
            "id": name,
            "name": name,
            "model": "tiny",
            "task": "reviews",
            "method": [name],
            "hardware": "cpu",
            "seed": 0,
            "runtime": {"name": "openvino", "threads": 1},
        },
        "quality": quality,
        "size": size,
        "latency": {"rows": [row]},
        "origin": {"host": "here", "baseline": "b0"},
        "flags": [],
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        node: Any = made
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node[parent]
        node[last] = value
    made["score"] = weighted_score(made, WEIGHTS)
    return made


def save(outputs: Path, *records: dict[str, Any]) -> None:
    for index, item in enumerate(records):
        directory = outputs / "runs" / f"{index}-{item['run']['id']}"
        directory.mkdir(parents=True)
        (directory / "record.json").write_text(json.dumps(item))


def printed(outputs: Path, ids: list[str] | None = None, width: int = 160) -> str:
    stream = io.StringIO()
    report(outputs, ids, Console(file=stream, width=width))
    return stream.getvalue()


def names(text: str) -> list[str]:
    """First words of the lines of the first table."""
    lines = text[text.index("───") :].splitlines()[1:]
    return [line.split()[0] for line in lines[: lines.index(next(item for item in lines if not item.strip()))]]


def test_one_row_for_each_run_and_one_for_the_baseline_they_share(tmp_path: Path) -> None:
    save(tmp_path, record("prune"), record("quant", latency__rows__0__baseline__p50_ms=3.0))
    text = printed(tmp_path)
    assert names(text) == ["baseline", "prune", "quant"]
    with (tmp_path / "reports" / "table.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [float(row["p50_ms"]) for row in table] == [2.5, 1.0, 1.0]  # the baseline's: median of 2 and 3
    assert [float(row["speedup_over_eager"]) for row in table] == [1.5, 3.0, 3.0]
    assert [float(row["WS"]) for row in table] == pytest.approx([0.95 + 2, 0.93 + 4 + 2, 0.93 + 4 + 2])
    assert "| quant" in (tmp_path / "reports" / "table.md").read_text()


def test_the_csv_holds_intervals_memory_and_energy_of_run_and_baseline(tmp_path: Path) -> None:
    memory = {"peak_rss_bytes": 100, "device_bytes": None, "baseline_peak_rss_bytes": 200}
    first = record("cpu", memory=memory, energy={"joules_per_1000": 3.0, "baseline_joules_per_1000": 5.0})
    first["quality"] |= {"interval": [0.92, 0.94], "baseline_interval": [0.94, 0.96]}
    again = {"memory": memory | {"device_bytes": 70, "baseline_peak_rss_bytes": 400}}
    save(tmp_path, first, record("gpu", **again))
    printed(tmp_path)
    with (tmp_path / "reports" / "table.csv").open() as stream:
        table = list(csv.DictReader(stream))
    columns = ("quality_low", "quality_high", "peak_memory_bytes", "joules_per_1000")
    assert [[row[name] for name in columns] for row in table] == [
        ["0.94", "0.96", "300.0", "5.0"],  # memory: median of 200 and 400
        ["0.92", "0.94", "100.0", "3.0"],
        ["", "", "70.0", ""],
    ]


def test_other_seeds_models_and_machines_have_their_own_baseline(tmp_path: Path) -> None:
    save(
        tmp_path,
        record("a"),
        record("b", run__seed=1),
        record("c", run__model="other"),
        record("d", origin__host="there"),
        record("e", origin__baseline="b1"),
        record("f", quality__baseline={"accuracy": 0.94}),
    )
    assert [row["run"] for row in rows(read(tmp_path)[0])].count("baseline") == 6


def test_baselines_timed_under_other_conditions_stay_apart_and_the_titles_say_which(tmp_path: Path) -> None:
    save(
        tmp_path,
        record("a"),
        record("b", run__runtime={"name": "eager", "threads": 1}),
        record("c", run__runtime={"name": "openvino", "threads": 2}),
        record("d", latency__rows__0__batch_size=8),
        record("e", latency__rows__0__length=32),
    )
    printed_lines = [line.strip() for line in printed(tmp_path).splitlines()]
    markdown_lines = (tmp_path / "reports" / "table.md").read_text().splitlines()
    for conditions in (
        "openvino · 1 thread · latency of 1 × 128 tokens",
        "eager · 1 thread · latency of 1 × 128 tokens",
        "openvino · 2 threads · latency of 1 × 128 tokens",
        "openvino · 1 thread · latency of 8 × 128 tokens",
        "openvino · 1 thread · latency of 1 × 32 tokens",
    ):
        assert printed_lines.count(f"reviews · tiny · cpu · here · {conditions}") == 1
        assert markdown_lines.count(f"### reviews · tiny · cpu · here · {conditions}") == 1
    assert [row["run"] for row in rows(read(tmp_path)[0])].count("baseline") == 5


def test_data_sets_and_budgets_of_one_task_have_titles_that_tell_them_apart(tmp_path: Path) -> None:
    given = {"settings": {"rows": "1111111122222222"}, "rows": 200, "split": "validation"}
    usual, long, other = record("a"), record("b", origin__baseline="b1"), record("c", origin__baseline="b2")
    usual["quality"] |= given
    long["quality"] |= given
    long["run"]["overrides"] = ["train.epochs=9", "method.prune.sparsity=0.5"]
    other["quality"] |= given | {"settings": {"rows": "3333333344444444"}}
    save(tmp_path, usual, long, other)
    title = "reviews · tiny · cpu · here · openvino · 1 thread · latency of 1 × 128 tokens"
    expected = [f"{title} · data 11111111", f"{title} · data 11111111 · train.epochs=9", f"{title} · data 33333333"]
    drawn = " ".join(printed(tmp_path).split())
    assert [drawn.count(f"{line} run ") for line in expected] == [1, 1, 1]
    markdown = (tmp_path / "reports" / "table.md").read_text().splitlines()
    assert [line for line in markdown if line.startswith("#")] == [f"### {line}" for line in expected]


def test_where_only_failures_are_there_is_a_page_of_them(tmp_path: Path) -> None:
    synthetic.outputs(tmp_path, count=0)
    command = [sys.executable, "-m", "compress_exp.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "there are no finished runs" in done.stdout
    assert "report.html: 3 that are not finished" in done.stdout
    page = (tmp_path / "reports" / "report.html").read_text()
    assert "CUDA out of memory" in page
    assert not (tmp_path / "reports" / "table.csv").exists()


def test_only_the_runs_of_a_sweep_are_shown_and_all_are_written(tmp_path: Path) -> None:
    save(tmp_path, record("prune"), record("quant"), record("distill"))
    text = printed(tmp_path, ["distill", "prune"])
    assert text.index("distill") < text.index("prune")
    assert "quant" not in text
    assert "quant" in (tmp_path / "reports" / "table.csv").read_text()


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"run": {"id": "x"', "[]", "null", '{"run": {}}', '{"run": {"id": "x"}, "quality": 1}', "\0\xff"],
)
def test_a_broken_record_is_named_and_left_out(tmp_path: Path, content: str) -> None:
    save(tmp_path, record("prune"))
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "record.json").write_bytes(content.encode("latin-1"))
    text = printed(tmp_path)
    assert f"{broken}/record.json: left out" in text
    assert "prune" in text


def test_missing_and_undefined_numbers_are_dashes(tmp_path: Path) -> None:
    bare = record("bare", quality__primary__value=float("nan"), quality__retained=None, latency__rows=[])
    del bare["size"]["compression_ratio"], bare["score"], bare["origin"]
    save(tmp_path, bare)
    line = next(line for line in printed(tmp_path).splitlines() if "bare" in line)
    assert line.count("–") == 7
    assert "nan" not in line.lower()


def test_ties_and_copies(tmp_path: Path) -> None:
    save(tmp_path, record("prune"), record("prune"), record("twin", run__method=["prune"]))
    assert names(printed(tmp_path)) == ["baseline", "prune", "prune"]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_of_the_table_is_wider_than_the_terminal_and_no_number_is_cut(tmp_path: Path, width: int) -> None:
    pipeline = record("pipeline", run__method=["distill", "quant"], run__overrides=["method.distill.layers=2"])
    save(tmp_path, record("prune"), record("quant", flags=["slow"]), pipeline)
    text = printed(tmp_path, width=width)
    table = text[: text.index("quant: slow")].splitlines()
    assert max(map(len, table)) <= width
    assert "…" not in "".join(table)
    assert all(value in text for value in ("0.9300", "1.00", "2.00× (1.90–2.10)"))


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    save(tmp_path, record("prune", run__overrides=["method.prune.select=[red]"], flags=["[/bold] flag"]))
    save(tmp_path, record("other"))
    text = printed(tmp_path, width=200)
    assert "[red]" in text
    assert "[/bold] flag" in text


def test_markup_in_names_is_text_in_markdown_too(tmp_path: Path) -> None:
    names = {"run__method": ["<script>alert(1)</script>|x"], "run__task": "<img src=x>", "flags": ["<b>"]}
    save(tmp_path, record("evil", **names))
    printed(tmp_path)
    text = (tmp_path / "reports" / "table.md").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|x" in text
    assert not [part for part in ("<script", "<img", "<b>") if part in text]


def test_perplexity_is_marked_as_lower_is_better(tmp_path: Path) -> None:
    primary = {"name": "perplexity", "value": 30.0, "higher_is_better": False}
    save(tmp_path, record("quant", quality__primary=primary, quality__baseline={"perplexity": 27.0}))
    assert "perplexity ↓" in printed(tmp_path)
    baseline, run = rows(read(tmp_path)[0])
    assert run["WS"] == pytest.approx(27 / 30 + 4 + 2)
    assert baseline["WS"] == pytest.approx(3)


def test_the_command_reports_and_says_where_nothing_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "compress_exp.report"]
    save(tmp_path, record("prune"))
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "table.md" in done.stdout
    empty = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert empty.returncode == 1
    assert "there are no finished runs" in empty.stdout

"""The report: a table on the terminal, the same with every column as CSV and Markdown, LaTeX tables, and the page."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compress_exp.config.secrecy import hide, safe
from compress_exp.outputs.records import Record, read
from compress_exp.report.table import APART, BASELINE, SETTING, Row, rows

Format = Callable[[Row], str]


def report(
    outputs: Path,
    ids: Sequence[str] | None = None,
    console: Console | None = None,
    tasks: Sequence[str] | None = None,
) -> list[Path]:
    """Print the runs with these ids (all of them by default); write tables and page of all under `outputs/reports`.

    Broken records are named in one line each and left out.

    Args:
        outputs: the directory of all results.
        ids: of the runs that are printed.
        console: where to.
        tasks: runs of other tasks are left out of everything; None for all tasks.

    Returns:
        The files written, the page last; where no run is finished the page of those that are not; else none.
    """
    console = console or _console()
    found, problems = read(outputs)
    everything = [safe(record) for record in found]
    for problem in problems:
        console.print(hide(problem), markup=False, highlight=False, soft_wrap=True)
    told = "there are no finished runs"
    if everything and tasks is not None:
        known_tasks = sorted({str(record["run"].get("task")) for record in everything})
        everything = [record for record in everything if str(record["run"].get("task")) in tasks]
        told += f" of {' or '.join(tasks)}, only of {', '.join(known_tasks)}"
    if not everything:
        console.print(hide(f"{outputs}: {told}"), markup=False, highlight=False, soft_wrap=True)
        return _page_of_failures(outputs, console, tasks)
    shown = everything
    if ids is not None:
        known = {str(record["run"]["id"]): record for record in everything}
        shown = [known[name] for name in dict.fromkeys(ids) if name in known]
    show(rows(shown), console)
    paths = write(rows(everything), outputs, everything, tasks)
    runs = "1 run" if len(everything) == 1 else f"all {len(everything)} runs"
    names = ", ".join(path.name for path in paths[:-1])
    console.print(hide(f"{paths[-1]}: {runs}; beside it {names}"), markup=False, highlight=False, soft_wrap=True)
    return paths


def show(table: Sequence[Row], console: Console) -> None:
    """One table for each task, model and conditions of timing; columns that do not fit are left to the files."""
    for title, runs in _tables(table):
        columns = _columns(runs)
        cells = {name: [form(row) for row in runs] for name, form in columns.items()}
        widths = {name: max(map(len, [name, *column])) for name, column in cells.items()}
        for name in ("WS", "kept", "over eager", "runtime", "p50 ms", "smaller"):
            if sum(widths.values()) + 3 * len(widths) > console.width:
                widths.pop(name, None)
        drawn = Table(
            title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for name in widths:
            drawn.add_column(name, justify="left" if name == "run" else "right", no_wrap=name != "run", overflow="fold")
        for index, row in enumerate(runs):
            style = "dim" if row["run"] == BASELINE else None
            drawn.add_row(*(escape(cells[name][index]) for name in widths), style=style)
        console.print(drawn)
        for row in runs:
            if row["flags"]:
                console.print(f"{_label(row)}: {row['flags']}", markup=False, highlight=False, soft_wrap=True)


def _tables(table: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows of each table with its title, which tells it from the others."""
    groups = [list(group) for _, group in itertools.groupby(table, key=lambda row: [str(row[name]) for name in APART])]
    firsts = [group[0] for group in groups]
    titles = [_title(first) for first in firsts]
    told = []
    for first, title in zip(firsts, titles, strict=True):
        alike = [other for other, own in zip(firsts, titles, strict=True) if own == title]
        parts = [form(first) for form in _DATA if len({form(other) for other in alike}) > 1]
        told.append(" · ".join([title, *filter(None, parts)]))
    return list(zip(told, groups, strict=True))


_DATA: tuple[Format, ...] = (
    lambda row: "" if row["rows"] is None else f"{row['rows']:,.0f} {row['split'] or ''} examples",
    lambda row: "" if row["data"] is None else f"data {row['data']}",
    lambda row: "" if row["train_data"] is None else f"training data {row['train_data']}",
    lambda row: str(row["dense"]),
)


def _title(first: Row) -> str:
    parts = [str(first[name]) for name in SETTING[: SETTING.index("threads")] if first[name] is not None]
    if first["threads"] is not None:
        parts.append(f"{first['threads']:.0f} thread{'' if first['threads'] == 1 else 's'}")
    if first["batch_size"] is not None and first["length"] is not None:
        parts.append(f"latency of {first['batch_size']:.0f} × {first['length']:.0f} tokens")
    return " · ".join(parts)


def _label(row: Row) -> str:
    return f"{row['run']} {row['changes']}".strip()


def _columns(runs: Sequence[Row]) -> dict[str, Format]:
    first = runs[0]
    metric = f"{first['metric']}{'' if first['higher_is_better'] else ' ↓'}"
    columns: dict[str, Format] = {"run": _label}
    if len({row["seed"] for row in runs}) > 1:
        columns["seed"] = lambda row: str(row["seed"])
    columns[metric] = lambda row: _quality(row["quality"])
    columns["kept"] = lambda row: _number(row["retained"], 1, " %", 100)
    columns["MB"] = lambda row: _number(row["artifact_bytes"], 2, "", 1e-6)
    columns["smaller"] = lambda row: _number(row["compression_ratio"], 2, "×")
    if first["runtime"] == "auto":
        columns["runtime"] = lambda row: str(row["ran_in"])
    columns["p50 ms"] = lambda row: _number(row["p50_ms"], 2)
    columns["faster (95 %)"] = _speedup
    columns["over eager"] = lambda row: _number(row["speedup_over_eager"], 2, "×")
    columns["WS"] = lambda row: _number(row["WS"], 2)
    return columns


def _quality(value: float | None) -> str:
    return _number(value, 4 if value is not None and abs(value) <= 1 else 2)


def _speedup(row: Row) -> str:
    text = _number(row["speedup"], 2, "×")
    if row["speedup_low"] is None or row["speedup_high"] is None:
        return text
    return f"{text} ({row['speedup_low']:.2f}–{row['speedup_high']:.2f})"


def _number(value: float | None, digits: int, unit: str = "", factor: float = 1.0) -> str:
    return "–" if value is None else f"{value * factor:.{digits}f}{unit}"


def write(
    table: Sequence[Row], outputs: Path, records: Sequence[Record], tasks: Sequence[str] | None = None
) -> list[Path]:
    """Write `table.csv` (numbers as they are), `table.md` (as on the terminal), `table.tex` and `report.html`."""
    import pandas as pd

    from compress_exp.report.latex import latex
    from compress_exp.report.page.write import gather, render

    sections = gather(outputs, records)
    texts = {
        "table.csv": pd.DataFrame(table).to_csv(index=False),
        "table.md": _markdown(table),
        "table.tex": latex(sections),
        "report.html": render(outputs, sections, tasks),
    }
    return _write(outputs, texts)


def _page_of_failures(outputs: Path, console: Console, tasks: Sequence[str] | None) -> list[Path]:
    """The page of runs that are not finished; none where there are none."""
    from compress_exp.report.analysis.missing import missing
    from compress_exp.report.page.write import render

    lost = len(missing(outputs, tasks))
    if not lost:
        return []
    paths = _write(outputs, {"report.html": render(outputs, [], tasks)})
    console.print(
        hide(f"{paths[0]}: {lost} that {'is' if lost == 1 else 'are'} not finished, with reasons"),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return paths


def _write(outputs: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write files of reports, each whole."""
    directory = outputs / "reports"
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in texts.items():
        temporary = directory / f".{name}.{os.getpid()}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, directory / name)
        paths.append(directory / name)
    return paths


def _markdown(table: Sequence[Row]) -> str:
    import pandas as pd

    from compress_exp.report.card import markdown

    parts: list[str] = []
    for title, runs in _tables(table):
        columns = _columns(runs) | {"notes": lambda row: str(row["flags"])}
        cells = [{name: markdown.escape(form(row)) for name, form in columns.items()} for row in runs]
        align = ["left" if name in ("run", "notes") else "right" for name in columns]
        text = pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True, colalign=align)
        parts.append(f"### {markdown.escape(title)}\n\n{text}\n")
    return "\n".join(parts)


def _console() -> Console:
    """The terminal's width; a pipe or a log file has none, and takes wide lines."""
    wide = None if os.isatty(1) or "COLUMNS" in os.environ else max(140, shutil.get_terminal_size().columns)
    return Console(width=wide)

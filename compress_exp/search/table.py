"""The result of a search: its Pareto set, what each member reached where, and how to run it again."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compress_exp.outputs.objectives import Objective

WIDE = 140  # a pipe or a log file has no width


@dataclass(frozen=True)
class Result:
    """One member of the Pareto set.

    Attributes:
        number: the trial's, from 0.
        drawn: the overrides that the trial drew.
        values: what the search saw, in the order of the objectives.
        record: of the run that was measured on other rows; None where there is none.
        overrides: all that reproduces that run.
    """

    number: int
    drawn: Sequence[str]
    values: Sequence[float]
    record: Mapping[str, Any] | None
    overrides: Sequence[str]

    @property
    def command(self) -> str:
        """As one types it."""
        return shlex.join(["python", "-m", "compress_exp", *self.overrides])


def show(results: Sequence[Result], objectives: Sequence[Objective], split: str | None) -> None:
    """Print the table, then the command of each member.

    Args:
        results: the Pareto set.
        objectives: the columns.
        split: the rows that the members were measured on at last; None where trials saw them already.
    """
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE, soft_wrap=True)
    table = Table(title="Pareto set", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", justify="right")
    table.add_column("drawn", overflow="fold")
    columns = [
        (index, searched)
        for index, objective in enumerate(objectives)
        for searched in ((True, False) if split is not None and not _settled(objective) else (True,))
    ]
    for index, searched in columns:
        objective = objectives[index]
        rows = "" if split is None or _settled(objective) else "holdout" if searched else split
        table.add_column(f"{objective.path}\n{rows}".strip(), justify="right", no_wrap=True)
    for result in results:
        cells = [_cell(result, objectives[index], index, searched) for index, searched in columns]
        table.add_row(
            str(result.number + 1), escape(" ".join(item.removeprefix("method.") for item in result.drawn)), *cells
        )
    console.print(table)
    for result in results:
        console.print(f"trial {result.number + 1}: {result.command}", markup=False, highlight=False)


def _settled(objective: Objective) -> bool:
    """Whether it is the same whatever rows are evaluated."""
    return objective.path.startswith("size/")


def _cell(result: Result, objective: Objective, index: int, searched: bool) -> str:
    value = result.values[index] if searched else objective.value(result.record or {})
    return "–" if value is None else objective.show(value)

"""Writing the page: everything in one file, and nothing in it that could load or run anything else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import plotly.offline
from markupsafe import Markup, escape

from compress_exp.outputs.files import finite
from compress_exp.outputs.records import Record
from compress_exp.report.analysis.entries import weights_of
from compress_exp.report.analysis.majority import Majority
from compress_exp.report.analysis.missing import missing
from compress_exp.report.page.curves import Histories
from compress_exp.report.page.sections import Section, sections
from compress_exp.report.page.style import Style

HERE = Path(__file__).parent
SCRIPTS = ("figures.js", "choose.js", "page.js")


def gather(outputs: Path, records: Sequence[Record]) -> list[Section]:
    """The sections of the page.

    Args:
        outputs: the directory of all results.
        records: free of secrets and of the home directory, see `safe`.
    """
    return sections(records, Majority(outputs / "evaluations"))


def render(outputs: Path, made: Sequence[Section], tasks: Sequence[str] | None) -> str:
    """The page's HTML.

    Args:
        outputs: the directory of all results, for the histories of trainings and for runs that are not finished.
        made: the page's sections.
        tasks: those that were asked for, None for all.
    """
    weights = weights_of(record for section in made for record in section.records)
    histories = Histories(outputs / "artifacts")
    style = Style.of([entry for section in made for entry in section.entries])
    data = [section.data(style, histories) for section in made]
    bundle = plotly.offline.get_plotlyjs()
    scripts = [(HERE / name).read_text(encoding="utf-8") for name in SCRIPTS]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["breakable"] = _breakable
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":"), "ensure_ascii": False}
    return environment.get_template("page.html.j2").render(
        sections=made,
        titles=titles(made),
        style=style,
        weights=weights,
        data=finite({"sections": data, "histories": histories.known(), "weights": weights}),
        missing=missing(outputs, tasks),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        runs=sum(len(section.records) for section in made),
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        plotly=Markup(bundle),
        hashes=[_hash(script) for script in (bundle, *scripts)],
    )


def titles(made: Sequence[Section]) -> list[str]:
    """A name for each section: its task, and what tells its conditions from those of others of this task."""
    found = []
    for section in made:
        others = [other for other in made if other.task == section.task]
        shared = set.intersection(*(set(other.conditions) for other in others))
        apart = [part for part in section.conditions if part not in shared]
        if len({other.metric for other in others}) > 1:
            apart.insert(0, section.metric)
        found.append(" · ".join([section.task, *apart]))
    return found


def _breakable(name: str) -> Markup:
    """A name that a narrow column breaks where its parts end."""
    return Markup(re.sub("([/_.=])", r"\1<wbr>", str(escape(name))))


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"

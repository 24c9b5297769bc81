"""LaTeX tables (booktabs) of the entries: one for each task and its conditions, seeds folded."""

from __future__ import annotations

from collections.abc import Sequence

from compress_exp.report.analysis.entries import weights_of
from compress_exp.report.page.sections import Section

SIGNS = {
    "≈": r"$\approx$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\to$",
    "↓": r"$\downarrow$",
    "–": "--",
    "·": r"$\cdot$",
}


def latex(sections: Sequence[Section]) -> str:
    """The tables, for `\\input`; the preamble needs `\\usepackage{booktabs}`."""
    import pandas as pd

    weights = weights_of(record for section in sections for record in section.records)
    parts = []
    for section in sections:
        columns = section.columns(weights)
        rows = [[_escaped(column.cell(entry)) for column in columns] for entry in section.entries]
        frame = pd.DataFrame(rows, columns=[_escaped(column.title) for column in columns])
        caption = _escaped(" · ".join([section.task, *section.conditions]))
        align = "".join("r" if column.numeric else "l" for column in columns)
        parts.append(frame.to_latex(index=False, escape=False, column_format=align, caption=caption, position="tbp"))
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """Text as LaTeX shows it."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"<": r"\textless{}", ">": r"\textgreater{}"}
    special |= {"\n": " "} | SIGNS
    return "".join(special.get(character, character) for character in text)

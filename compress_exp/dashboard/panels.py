"""The plots that workspace and report share; keys are paths of the record, as each run logs them."""

from __future__ import annotations

from typing import Any

from wandb_workspaces.reports.v2 import interface as wr

PRIMARY, BYTES = "quality/primary", "size/artifact_bytes"
P50, P99 = "latency/p50_ms", "latency/p99_ms"


def sections() -> dict[str, list[Any]]:
    """All plots under their headings."""
    return {"Trade-offs": trade_offs(), "By method": bars(), "Runs": details()}


def trade_offs() -> list[Any]:
    """What a run costs against what it is worth."""
    size, quality, fast = wr.SummaryMetric(BYTES), wr.SummaryMetric(PRIMARY), wr.SummaryMetric(P50)
    columns = [(BYTES, "bytes", True), (P50, "p50 ms", True), ("latency/speedup", "speed-up", False)]
    columns += [("quality/retained", "retained", False), (PRIMARY, "quality", False)]
    return [
        wr.ScatterPlot(title="Size and quality", x=size, y=quality, z=fast, log_x=True, layout=place(0, 0)),
        wr.ScatterPlot(title="Latency and quality", x=fast, y=quality, z=size, log_x=True, layout=place(1, 0)),
        wr.ParallelCoordinatesPlot(
            title="Size, latency, speed-up, quality",
            columns=[
                wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(key), display_name=name, log=log or None)
                for key, name, log in columns
            ],
            layout=place(0, 1, wide=True),
        ),
    ]


def bars() -> list[Any]:
    """Latency and quality of each method, the mean over its runs with their range."""
    found = []
    for column, (title, keys) in enumerate({"Latency, ms": (P50, P99), "Quality": (PRIMARY,)}.items()):
        found.append(
            wr.BarPlot(
                title=title,
                metrics=list(keys),  # bars take the plain names
                groupby=wr.Config("method"),
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
                layout=place(column, 0),
            )
        )
    return found


def details() -> list[Any]:
    """What differs between runs, every latency row, and the loss of the whole chain."""
    return [
        wr.RunComparer(diff_only="split", layout=place(0, 0, wide=True)),
        wr.WeavePanelSummaryTable(table_name="latency/table", layout=place(0, 1)),
        wr.LinePlot(title="Loss", x="Step", y=["loss"], layout=place(1, 1)),
    ]


def place(column: int, row: int, wide: bool = False) -> wr.Layout:
    """A half or the whole of a row of the page, which is 24 wide."""
    return wr.Layout(x=12 * column, y=8 * row, w=24 if wide else 12, h=8)

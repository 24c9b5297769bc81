"""Under which conditions a record was measured, in words: only what was measured alike is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress_exp.outputs.records import Record, number, runtime
from compress_exp.report.analysis.entries import headline


def conditions(record: Record) -> tuple[str, ...]:
    """How a record was measured: only what was measured alike is compared."""
    run, origin, row = record["run"], _mapping(record.get("origin")), headline(record)
    ran, quality = _mapping(run.get("runtime")), record["quality"]
    threads, size, length = number(ran, "threads"), number(row, "batch_size"), number(row, "length")
    rows, data = number(quality, "rows"), _mapping(quality.get("settings")).get("rows")
    told = [
        str(run.get("hardware")),
        machine(origin),
        " ".join(str(part) for part in (runtime(record)[0], ran.get("device")) if part is not None),
        "" if threads is None else f"{threads:.0f} thread{'' if threads == 1 else 's'}",
        "not timed" if size is None or length is None else f"latency of {size:.0f} × {length:.0f} tokens",
        str(quality.get("split") or "") if rows is None else f"{rows:,.0f} {quality.get('split') or ''} examples",
        "" if data is None else f"data {str(data)[:8]}",
    ]
    return tuple(part for part in told if part)


def machine(origin: Mapping[str, Any]) -> str:
    """The device that times belong to: equal hosts of a cluster are one."""
    device = origin.get("gpu") or origin.get("cpu")
    if device is None:
        return str(origin.get("host") or "")
    cores = number(origin, "cores")
    return str(device) if cores is None or origin.get("gpu") else f"{device}, {cores:.0f} cores"


def _mapping(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else {}

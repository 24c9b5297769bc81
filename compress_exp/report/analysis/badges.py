"""Why a number deserves distrust."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from compress_exp.outputs.records import Record, number
from compress_exp.report.analysis.describe import methods, settings
from compress_exp.report.analysis.entries import Entry, dense_quality, primary
from compress_exp.report.analysis.majority import Majority
from compress_exp.report.analysis.spread import mean

FEW_ROWS = 500


def mark(entries: Sequence[Entry], majority: Majority) -> None:
    """Give every entry its badges.

    Args:
        entries: of one task under one set of conditions.
        majority: knows the most frequent classes.
    """
    controls = {_student(entry): entry for entry in entries if not entry.is_dense and not _learns_from_teacher(entry)}
    for entry in entries:
        entry.badges = [*_speed(entry), *_control(entry, controls), *_evaluation(entry), *_dense(entry, majority)]
        if not entry.is_dense:
            entry.badges += _flags(entry)


def _flags(entry: Entry) -> list[tuple[str, str]]:
    """What the runs noted themselves; of several seeds that noted the like of it, all in one badge."""
    named: dict[str, list[str]] = {}
    for flag in dict.fromkeys(str(flag) for record in entry.records for flag in record.get("flags") or []):
        named.setdefault(flag.partition(":")[0] if ":" in flag else "note", []).append(flag)
    return [(name, "; ".join(flags)) for name, flags in named.items()]


def _speed(entry: Entry) -> list[tuple[str, str]]:
    speed = entry.speedup.value
    if entry.is_dense or speed is None or speed >= 1:
        return []
    return [("slower", f"It takes {1 / speed if speed > 0 else float('inf'):.2f} times as long as the dense model.")]


def _control(entry: Entry, controls: Mapping[str, Entry]) -> list[tuple[str, str]]:
    """Worse than the same student that learnt without a teacher."""
    control = controls.get(_student(entry)) if not entry.is_dense and _learns_from_teacher(entry) else None
    if control is None or entry.quality.value is None or control.quality.value is None:
        return []
    higher = primary(entry.records[0])[1]
    own, other = entry.quality.value, control.quality.value
    if own >= other if higher else own <= other:
        return []
    return [("teacher harms", f"The same student without a teacher reaches {other:.4g}, this one {own:.4g}.")]


def _evaluation(entry: Entry) -> list[tuple[str, str]]:
    rows = mean([number(record["quality"], "rows") for record in entry.records])
    if rows is None or rows >= FEW_ROWS:
        return []
    return [("few rows", f"Quality comes from {rows:.0f} examples, fewer than {FEW_ROWS}.")]


def _dense(entry: Entry, majority: Majority) -> list[tuple[str, str]]:
    """A dense model that is no better than answering the most frequent class."""
    for record in entry.records:
        share, accuracy = majority.share(record), number(record["quality"], "baseline", "accuracy")
        if share is not None and accuracy is not None and accuracy <= share:
            told = f"always answering the most frequent class gives {share:.4g}"
            return [("weak baseline", f"The dense model's accuracy is {accuracy:.4g}; {told}.")]
        name, value = primary(record)[0], dense_quality(record)
        if name.startswith("matthews") and value is not None and value <= 0:
            return [("weak baseline", f"The dense model's {name} is {value:.4g}; any constant answer gives 0.")]
    return []


def _learns_from_teacher(entry: Entry) -> bool:
    run = entry.records[0]["run"]
    losses = run.get("loss") if isinstance(run.get("loss"), list) else [run.get("loss")]
    return any(loss not in (None, "TaskLoss") for loss in losses)


def _student(entry: Entry) -> str:
    """What was done, whatever loss it learnt from."""
    record = entry.records[0]
    others = [item for item in settings(record) if not _about_loss(item)]
    families = [str(name).partition("/")[0] for name in record["run"].get("method") or []]
    known = [_without_loss(identity) for identity in methods(record)]
    if known:
        others = [item for item in others if not item.startswith("method")]
    return json.dumps([entry.model, families if _distills(record) else entry.method, known, others], default=str)


def _distills(record: Record) -> bool:
    return any(str(name).startswith("distill") for name in record["run"].get("method") or [])


def _about_loss(override: str) -> bool:
    key = override.partition("=")[0]
    return key.startswith("loss") or ".loss" in key or override.startswith("method=")


def _without_loss(identity: Any) -> Any:
    return (
        {name: value for name, value in identity.items() if name != "loss"} if isinstance(identity, dict) else identity
    )

"""Writing cards: whenever an artifact is built or measured, without a lock, and never at a run's cost.

A card counts for nothing: build.json does not list it, no hash sees it, and one that is lost is written again. Two
processes may write one at once; each looks at the records again after its own is in place, so that the last to write
has seen them all.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Collection, Sequence
from pathlib import Path

from compress_exp.config.secrecy import hide, safe
from compress_exp.outputs.files import digest
from compress_exp.outputs.records import Record, read
from compress_exp.report.card.lineage import Names, lineage, stages

log = logging.getLogger("compress_exp")

CARD = "README.md"
FORMAT = 1
ROUNDS = 5
_KEY = re.compile(r"[0-9a-f]{16}")


def publish_card(artifacts: Path, key: str, names: Names) -> None:
    """Give a finished artifact a card, if it has none.

    Args:
        artifacts: the directory of all artifacts.
        key: of the artifact.
        names: for one that no record speaks of yet.
    """
    try:
        if not (artifacts / key / CARD).exists():
            records = read(artifacts.parent)[0]
            _Bundle(artifacts, records).write(key, _about(records).get(key, []), names)
    except Exception as error:
        _warn(artifacts / key, error)


def complete(outputs: Path, runs: Collection[str]) -> None:
    """Bring the cards of all artifacts up to date that the records of some runs speak of.

    Args:
        outputs: the directory of all results.
        runs: their ids.
    """
    artifacts = outputs / "artifacts"
    try:
        for _ in range(ROUNDS):
            records = read(outputs)[0]
            about = _about(records)
            asked = [record for record in records if str(record["run"]["id"]) in runs]
            stale = [key for key in _about(asked) if _outdated(artifacts, key, about[key])]
            if not stale:
                return
            bundle = _Bundle(artifacts, records)
            failures = [error for key in stale if (error := _tried(bundle, key, about[key])) is not None]
            if failures:
                raise failures[0]
    except Exception as error:
        _warn(artifacts, error)


def _tried(bundle: _Bundle, key: str, about: Sequence[Record]) -> Exception | None:
    """Write one card of several: what fails takes no other along."""
    try:
        bundle.write(key, about)
    except Exception as error:
        return error
    return None


def _about(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records that speak of each artifact. Keys name directories, so nothing else may pass for one."""
    found: dict[str, list[Record]] = {}
    for record in records:
        origin = record.get("origin")
        origin = origin if isinstance(origin, dict) else {}
        keys = [origin.get("baseline"), *(row.get("artifact") for row in stages(record)), origin.get("artifact")]
        for key in dict.fromkeys(key for key in keys if isinstance(key, str) and _KEY.fullmatch(key)):
            found.setdefault(key, []).append(record)
    return found


def _outdated(artifacts: Path, key: str, records: Sequence[Record]) -> bool:
    """Whether a finished artifact lacks the card of these records."""
    if not (artifacts / key / "build.json").exists():
        return False
    try:
        return _stamp(records) not in (artifacts / key / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return True


class _Bundle:
    """Cards that are written from the same records.

    Args:
        artifacts: the directory of all artifacts.
        records: of all runs, as they were read.
    """

    def __init__(self, artifacts: Path, records: Sequence[Record]) -> None:
        self.artifacts, self.records = artifacts, records
        self.shown: dict[str, Record] = {}

    def write(self, key: str, about: Sequence[Record], names: Names | None = None) -> None:
        """Write the card of one artifact.

        Args:
            key: of the artifact.
            about: the records that speak of it.
            names: where there are none.
        """
        from compress_exp.report.analysis.majority import Majority
        from compress_exp.report.card.measured import in_passing, measured
        from compress_exp.report.card.render import render

        dense = {_dense(record) for record in about}
        own = [self._safe(record) for record in about]
        controls = [self._safe(item) for item in self.records if _dense(item) in dense]
        names = Names.of(own) if own or names is None else names
        text = render(
            key,
            lineage(self.artifacts, key, names),
            names,
            measured(key, own, controls, Majority(self.artifacts.parent / "evaluations")),
            in_passing(key, own),
            _stamp(about),
        )
        _replace(self.artifacts, key, text)

    def _safe(self, record: Record) -> Record:
        name = str(record["run"]["id"])
        if name not in self.shown:
            self.shown[name] = safe(record)
        return self.shown[name]


def _dense(record: Record) -> str:
    origin = record.get("origin")
    return str(origin.get("baseline")) if isinstance(origin, dict) else "None"


def _stamp(records: Sequence[Record]) -> str:
    """What tells a card of these records from one of others, whatever their score weighs."""
    parts = sorted(digest({name: part for name, part in record.items() if name != "score"}) for record in records)
    return f"compress_exp card {digest([FORMAT, parts])}"


def _replace(artifacts: Path, key: str, text: str) -> None:
    """Write the card whole; what a kill leaves is where `compress_exp.clean` finds it."""
    temporary = artifacts / f".{key}.{CARD}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, artifacts / key / CARD)
    finally:
        temporary.unlink(missing_ok=True)


def _warn(place: Path, error: Exception) -> None:
    told = hide(" ".join(str(error).split()))
    log.warning(
        "%s: its model card could not be written (%s: %s); nothing else is affected", place, type(error).__name__, told
    )

"""Where rows come from: local files, the Hugging Face hub, or a generator in the package."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from compress_exp.config.checks import UserError, nearest
from compress_exp.tasks.embedded import generate
from compress_exp.tasks.files import FORMATS, Row, read_rows

ROLES = ("train", "validation", "test")
SMALL = 50_000_000


class Source(Protocol):
    """Rows by split, addressed by content."""

    def where(self, split: str) -> str:
        """The place of a split, for messages."""

    def has(self, split: str) -> bool:
        """Is there such a split?"""

    def size(self, split: str) -> int:
        """The number of rows."""

    def take(self, split: str, indices: Sequence[int] | None) -> list[Row]:
        """Rows by index, all of them for None."""

    def digest(self, split: str) -> str:
        """A hash of the content."""


@dataclass(frozen=True)
class LocalSource:
    """Files `{train,validation,test}.{jsonl,json,csv,tsv,parquet}` of one directory."""

    directory: str

    def file(self, split: str) -> Path | None:
        """The file of a split.

        Raises:
            UserError: no such directory, two files for one split, or a format that is not read.
        """
        directory = Path(self.directory)
        if not directory.is_dir():
            raise UserError(
                f"task.data_dir: {self.directory!r} is no directory; give one with train.{'|'.join(FORMATS)}"
            )
        found = sorted(file for file in directory.glob(f"{split}.*") if file.is_file())
        known = [file for file in found if file.suffix[1:] in FORMATS]
        if len(known) > 1:
            raise UserError(f"task.data_dir: {split} is there twice, as {known[0].name} and {known[1].name}; keep one")
        if found and not known:
            raise UserError(
                f"task.data_dir: the format of {str(found[0])!r} is not read; allowed: {', '.join(FORMATS)}"
            )
        return known[0] if known else None

    def where(self, split: str) -> str:
        """The file, or the directory that lacks it."""
        return str(self.file(split) or Path(self.directory))

    def has(self, split: str) -> bool:
        """Is there such a file?"""
        return self.file(split) is not None

    def size(self, split: str) -> int:
        """The number of rows."""
        return len(self._rows(split))

    def take(self, split: str, indices: Sequence[int] | None) -> list[Row]:
        """Rows by index, all of them for None."""
        rows = self._rows(split)
        return rows if indices is None else [rows[index] for index in indices]

    def digest(self, split: str) -> str:
        """A hash of the file's bytes."""
        file = self._needed(split)
        return _file_digest(str(file), *_stamp(file))

    def sample(self, split: str) -> list[Row]:
        """All rows of a small file, the first thousand of a large one."""
        file = self._needed(split)
        return self._rows(split) if file.stat().st_size <= SMALL else list(islice(read_rows(file), 1000))

    def _rows(self, split: str) -> list[Row]:
        file = self._needed(split)
        return _cached_rows(str(file), *_stamp(file))

    def _needed(self, split: str) -> Path:
        file = self.file(split)
        if file is None:
            raise UserError(
                f"task.data_dir: {self.directory!r} has no {split} file; allowed: {split}.{'|'.join(FORMATS)}"
            )
        return file


@dataclass(frozen=True)
class HubSource:
    """A dataset of the Hugging Face hub, or of its local cache."""

    path: str
    config: str | None
    splits: Mapping[str, str]

    def where(self, split: str) -> str:
        """The dataset, its configuration and its own name of the split."""
        return f"{self.path}{f' ({self.config})' if self.config else ''}, split {self.splits.get(split, split)}"

    def has(self, split: str) -> bool:
        """Does the configuration name such a split?"""
        return bool(self.splits.get(split))

    def size(self, split: str) -> int:
        """The number of rows."""
        return len(self._data(split))

    def take(self, split: str, indices: Sequence[int] | None) -> list[Row]:
        """Rows by index, all of them for None."""
        data = self._data(split)
        rows: list[Row] = (data if indices is None else data.select(indices)).to_list()
        return rows

    def digest(self, split: str) -> str:
        """A hash of the rows."""
        return _hub_digest(self.path, self.config, self.splits[split])

    def _data(self, split: str) -> Any:
        return _hub_data(self.path, self.config, self.splits[split])


@dataclass(frozen=True)
class EmbeddedSource:
    """Rows that a generator of the package makes, such as `reviews`: a file of `tasks/embedded/`."""

    generator: str

    def where(self, split: str) -> str:
        """The generator's name."""
        return f"embedded {self.generator}, split {split}"

    def has(self, split: str) -> bool:
        """Every generator makes all splits."""
        return True

    def size(self, split: str) -> int:
        """The number of rows."""
        return len(generate(self.generator, split))

    def take(self, split: str, indices: Sequence[int] | None) -> list[Row]:
        """Rows by index, all of them for None."""
        rows = generate(self.generator, split)
        return rows if indices is None else [rows[index] for index in indices]

    def digest(self, split: str) -> str:
        """A hash of the rows."""
        return _embedded_digest(self.generator, split)


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _cached_rows(path: str, size: int, modified: int) -> list[Row]:
    return list(read_rows(Path(path)))


@lru_cache(maxsize=64)
def _file_digest(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=8)
def _hub_data(path: str, config: str | None, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(path, config, split=split)
    except Exception as error:
        name = f"{path}{f' ({config})' if config else ''}"
        raise UserError(
            f"task.hub: split {split!r} of {name} could not be loaded ({type(error).__name__}: {_first_line(error)}); "
            "check the names and the network, or set task.data_dir to local files"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]


@lru_cache(maxsize=8)
def _hub_digest(path: str, config: str | None, split: str) -> str:
    batches = _hub_data(path, config, split).with_format("arrow").iter(batch_size=1000)
    return rows_digest(row for batch in batches for row in batch.to_pylist())


@lru_cache(maxsize=16)
def _embedded_digest(generator: str, split: str) -> str:
    return rows_digest(generate(generator, split))


def rows_digest(rows: Iterable[Row]) -> str:
    """A hash of rows, independent of where and how they are stored."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def lookup(row: Row, column: str) -> Any:
    """The value of a column; a dotted path enters nested columns, or names a flat column by its last part.

    Raises:
        KeyError: the row has no such column.
    """
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return row[column.rsplit(".", 1)[-1]]
        value = value[part]
    return value


def check_column(rows: Sequence[Row], role: str, column: str, where: str) -> None:
    """Require a column in the first row.

    Raises:
        UserError: naming the nearest columns.
    """
    try:
        lookup(rows[0], column)
    except KeyError:
        names = nearest(column, _column_names(rows[0]))
        raise UserError(f"task.columns.{role}: {where} has no column {column!r}; {names}") from None


def _column_names(row: Row) -> list[str]:
    names: list[str] = []
    for name, value in row.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]
    return names


def share(indices: Sequence[int], fraction: float, seed: str, contiguous: bool) -> list[int]:
    """A seeded share of indices, in their order; a larger share contains a smaller one.

    Args:
        indices: what to choose from.
        fraction: how much of it, at least one index.
        seed: any text; `random.Random` gives the same numbers on every Python for it.
        contiguous: one run (wrapping around at the end) instead of scattered indices, for running text.
    """
    count = min(len(indices), max(1, round(fraction * len(indices))))
    generator = random.Random(seed)
    if contiguous:
        start = int(generator.random() * len(indices))
        order = [(start + offset) % len(indices) for offset in range(len(indices))]
    else:
        keys = [generator.random() for _ in indices]
        order = sorted(range(len(indices)), key=keys.__getitem__)
    return [indices[position] for position in sorted(order[:count])]

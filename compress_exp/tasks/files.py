"""Reading local files with the standard library (pyarrow for parquet): the same rows for `check` and for training."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress_exp.config.checks import UserError

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")

Row = dict[str, Any]


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of a file, one after the other.

    Raises:
        UserError: the content is not of the format that the suffix names.
    """
    try:
        yield from _READERS[file.suffix[1:]](file)
    except UnicodeDecodeError as error:
        raise UserError(f"task.data_dir: {str(file)!r} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"task.data_dir: {str(file)!r} cannot be read ({error.strerror or error})") from error


def _read_jsonl(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield _object(_parse(line, f"{file}, line {number}"), f"{file}, line {number}")


def _read_json(file: Path) -> Iterator[Row]:
    content = _parse(file.read_text(encoding="utf-8-sig"), str(file))
    if not isinstance(content, list):
        raise UserError(f"task.data_dir: {str(file)!r} must hold a list of objects; name one object per line .jsonl")
    for number, value in enumerate(content, 1):
        yield _object(value, f"{file}, row {number}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"task.data_dir: {where} is no JSON ({error})") from error


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"task.data_dir: {where} holds {value!r:.40}, an object with named columns is needed")
    return value


def _read_separated(file: Path) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    delimiter = "\t" if file.suffix == ".tsv" else ","
    with file.open(encoding="utf-8-sig", newline="") as stream:
        # Strict, because a stray quote would otherwise swallow rows without a word.
        reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"task.data_dir: {str(file)!r}, line {reader.line_num} does not have the "
                        f"{len(reader.fieldnames or [])} columns of the header"
                    )
                yield row
        except csv.Error as error:
            raise UserError(
                f"task.data_dir: {str(file)!r}, line {reader.line_num}: {error}; "
                "a field with quotes must be quoted, its quotes doubled (or use jsonl)"
            ) from error


def _read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as content:
            for batch in content.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError(f"task.data_dir: {str(file)!r} is no parquet file that can be read") from error


_READERS = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_separated,
    "tsv": _read_separated,
    "parquet": _read_parquet,
}

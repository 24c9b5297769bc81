"""The checksum of a file of weights, kept in its own header: one flipped bit is noticed when it is read."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from compress_exp.config.checks import UserError
from compress_exp.formats.codecs import Kind
from compress_exp.formats.layout import kind_of
from compress_exp.models.checkpoint import read_header

ENTRY = "sha256"


def write(
    tensors: Mapping[str, Tensor],  # contiguous, on the CPU
    file: Path,
) -> None:
    """Write a safetensors file whose header has the SHA-256 of names, types, shapes and bytes, in the names' order."""
    from safetensors.torch import save_file

    raw = {name: tensor.reshape(-1).view(torch.uint8).numpy().data for name, tensor in tensors.items()}
    found = _hashed((name, kind_of(tensors[name]), raw[name]) for name in sorted(tensors))
    save_file(dict(tensors), file, metadata={"format": "pt", ENTRY: found})
    with file.open("r+b") as stream:
        # The library writes these entries in an order that differs from process to process.
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length)
        start, end = header.index(b'{"', 1), header.index(b"}") + 1
        entries = json.dumps(json.loads(header[start:end]), sort_keys=True, separators=(",", ":")).encode()
        assert len(entries) == end - start and header[1:start] == b'"__metadata__":'
        stream.seek(8 + start)
        stream.write(entries)


def verify(files: Sequence[Path | str]) -> None:
    """Compare the bytes of safetensors files with the checksums in their headers; files of others have none.

    Raises:
        UserError: a file is not what was written.
    """
    for file in files:
        length, table = read_header(Path(file))
        promised, begin = table.pop("__metadata__", {}).get(ENTRY), 8 + length
        if promised is None:
            continue
        with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            parts = (
                (name, (entry["dtype"], tuple(entry["shape"])), content[begin + start : begin + end])
                for name, entry in sorted(table.items())
                for start, end in [entry["data_offsets"]]
            )
            if _hashed(parts) != promised:
                raise UserError(f"artifact: {file} was changed since it was written; copy it again, or build it anew")


def _hashed(parts: Iterable[tuple[str, Kind, bytes | memoryview]]) -> str:
    found = hashlib.sha256()
    for name, (dtype, shape), content in parts:
        found.update(json.dumps([name, dtype, shape]).encode())
        found.update(content)
    return found.hexdigest()

"""A directory of Hugging Face weights: its files checked before anything is loaded, and the digest of their content."""

from __future__ import annotations

import hashlib
import json
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

from compress_exp.config.checks import UserError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model"]


def check_weights(directory: Path, key: str) -> None:
    """Require config.json and readable safetensors in a directory.

    Raises:
        UserError: naming the file; a pickle is refused by name.
    """
    if not directory.is_dir():
        raise UserError(f"{key}: {str(directory)!r} is no directory; give one with config.json and model.safetensors")
    read_json(directory / "config.json", key)
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        pickles = [file.name for file in directory.iterdir() if file.suffix in PICKLES]
        if pickles:
            raise UserError(
                f"{key}: {pickles[0]!r} in {str(directory)!r} is a pickle and is never loaded; "
                "save it as model.safetensors"
            )
        raise UserError(f"{key}: {str(directory)!r} has no weights; model.safetensors is needed")
    for file in weights:
        check_safetensors(file, key)
    if not any((directory / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{key}: {str(directory)!r} has no tokenizer; one of {', '.join(TOKENIZERS)} is needed")


def check_dense(directory: Path, key: str, name: str) -> None:
    """Refuse weights that are stored in a format of quantization or pruning."""
    if "quantization_config" in read_json(directory / "config.json", key):
        raise UserError(f"{key}: {name!r} is compressed already; give the dense weights")


def check_safetensors(file: Path, key: str) -> None:
    """Read a safetensors header and compare it with the file's size.

    Raises:
        UserError: the file is no safetensors, or is truncated.
    """
    try:
        length, header = read_header(file)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        complete = file.stat().st_size == 8 + length + max(ends, default=0)
    except (struct.error, ValueError, KeyError, AttributeError, TypeError):
        raise UserError(
            f"{key}: {str(file)!r} is no safetensors file; pickles and other formats are not loaded"
        ) from None
    if not complete:
        raise UserError(f"{key}: {str(file)!r} is truncated; copy it again")


def read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """The bytes that the header of a safetensors file takes, and what it says."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        return length, json.loads(stream.read(min(length, 100_000_000)))


def read_json(file: Path, key: str) -> dict[str, Any]:
    """The content of a configuration file, or one sentence with the key that led there."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return content
    except FileNotFoundError:
        raise UserError(
            f"{key}: {str(file.parent)!r} has no {file.name}; give a directory of Hugging Face weights"
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(f"{key}: {str(file)!r} cannot be read ({type(error).__name__})") from error


def directory_digest(directory: Path) -> str:
    """One hash of the content of the files that decide model and tokenizer."""
    found = {file for pattern in WANTED for file in directory.glob(pattern)}
    files = sorted(file for file in found if file.name not in ("build.json", "recipe.json"))
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}:{_file_digest(str(file.resolve()), status.st_size, status.st_mtime_ns)};".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _file_digest(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

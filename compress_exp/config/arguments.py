"""What the commands beside the main one have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """The directory of runs, as DIR or, as the main command writes it, outputs=DIR."""
    parser.add_argument("outputs", nargs="?", default="outputs", type=_directory, help="where the runs were written")


def _directory(text: str) -> Path:
    return Path(text.removeprefix("outputs="))

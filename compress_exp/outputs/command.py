"""The command line of a run, fit to be kept."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from compress_exp.config.secrecy import kept


def command(arguments: Sequence[str] | None = None) -> str:
    """As one types it, without secrets and the home directory.

    Args:
        arguments: None takes those that this process was started with.
    """
    return shlex.join(["python", "-m", "compress_exp", *kept(sys.argv[1:] if arguments is None else arguments)])

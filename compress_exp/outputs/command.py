"""The command line that this process was started with, fit to be kept."""

from __future__ import annotations

import shlex
import sys

from compress_exp.config.secrecy import kept


def command() -> str:
    """As one types it, without secrets and the home directory."""
    return shlex.join(["python", "-m", "compress_exp", *kept(sys.argv[1:])])

"""The command line that this process was started with, fit to be kept."""

from __future__ import annotations

import re
import shlex
import sys

_PASSWORD = re.compile(r"(://[^/:@\s]*):.*@(?=[^@]*$)", re.DOTALL)
_SECRET = re.compile(r"(\b\w*(?:api_?key|token|secret|password)\w*=)[^\s&]+", re.IGNORECASE)


def command() -> str:
    """As one types it, without secrets."""
    return shlex.join(["python", "-m", "compress_exp", *map(hide_secrets, sys.argv[1:])])


def hide_secrets(argument: str) -> str:
    """The argument without the password of a URL and the value of what is named like a secret."""
    return _SECRET.sub(r"\1…", _PASSWORD.sub(r"\1:…@", argument))

"""The command line that this process was started with, fit to be kept."""

from __future__ import annotations

import re
import shlex
import sys

_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@\s]+@")
_SECRET = re.compile(r"(\b\w*(?:api_?key|token|secret|password)\w*=)\S+", re.IGNORECASE)


def command() -> str:
    """As one types it, without the passwords of URLs and the values of what is named like a secret."""
    line = shlex.join(["python", "-m", "compress_exp", *sys.argv[1:]])
    return _SECRET.sub(r"\1…", _PASSWORD.sub(r"\1:…@", line))

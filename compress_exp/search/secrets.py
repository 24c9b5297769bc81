"""Keeping passwords out of what is printed, recorded and handed to jobs."""

from __future__ import annotations

import re

HIDDEN = "***"
_IN_ADDRESS = re.compile(r"(?<=//)([^/:@\s]*):.*@(?=[^@]*$)")
_IN_QUERY = re.compile(r"(?i)([?&]password=)[^&\s'\"\]}]*")


def hide_password(text: str) -> str:
    """The text with the password of the URL in it replaced by stars."""
    return _IN_QUERY.sub(rf"\1{HIDDEN}", _IN_ADDRESS.sub(rf"\1:{HIDDEN}@", text))

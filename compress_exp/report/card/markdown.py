"""Text in Markdown: whatever it says, it stays text."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

_SPECIAL = re.compile(r"([\\`*_\[\]{}|#~$])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+")


def line(text: Any) -> str:
    """The text on one line, without control characters."""
    return _CONTROL.sub(" ", str(text)).strip()


def escape(text: Any) -> str:
    """The text as it is read in Markdown's running text and in cells of tables; `Markup` is left alone."""
    if isinstance(text, Markup):
        return str(text)
    plain = line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)


def fenced(text: Any, language: str) -> Markup:
    """The text on one line of a block of code that it cannot end."""
    shown = line(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return Markup(f"{fence}{language}\n{shown}\n{fence}")

"""What is neither kept nor shown: keys, tokens, passwords, and where the home directory is.

Nothing here imports torch: it is loaded at every start, by the log's formatter too.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

_NAME = re.compile(r"(^|_)(api_?key|access_?key|token|secret|password|passwd)$", re.IGNORECASE)
_PASSWORD = re.compile(r"(://[^/:@\s]*):\S*@(?=[^@\s]*(?:\s|$))")
_ANY_PASSWORD = re.compile(r"(://[^/:@\s]*):.*@(?=[^@]*$)", re.DOTALL)
_NAMED = re.compile(r"(\b\w*(?:api_?key|access_?key|token|secret|password|passwd)=)[^\s&]+", re.IGNORECASE)
_KNOWN = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|wandb_v\d+_\w{20,}|gh[pousr]_\w{30,}|sk-[\w-]{20,})")
SHORTEST = 8
HIDDEN = "…"
NUMBERS = ("size", "latency", "memory", "cost", "score")


def hide_secrets(argument: str) -> str:
    """One argument without the password of a URL, whatever is in it, and without all that `hide` takes for secret."""
    return _hider()(_ANY_PASSWORD.sub(rf"\1:{HIDDEN}@", argument))


def hide(text: str) -> str:
    """The text without secrets, and with `~` for the home directory.

    Secrets are passwords of URLs, what is named or looks like a key or token, and what the environment names like one.
    """
    return _homeless()(_hider()(text))


def kept(arguments: Iterable[str]) -> list[str]:
    """Arguments of a command line as they are written down."""
    return [hide(hide_secrets(argument)) for argument in arguments]


def clean(node: Any) -> Any:
    """A copy of lists and mappings without anything named like a secret and with all texts cleaned by `hide`."""
    secret, homeless = _hider(), _homeless()
    return _clean(node, lambda text: homeless(secret(text)))


def safe(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record fit to be kept and shown; its blocks of mere numbers are as they were."""
    cleaned: dict[str, Any] = clean({name: value for name, value in record.items() if name not in NUMBERS})
    return {name: record[name] if name in NUMBERS else cleaned[name] for name in record if name in (*NUMBERS, *cleaned)}


class Formatter(logging.Formatter):
    """Log lines without secrets and the home directory."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return hide(super().format(record))


def _clean(node: Any, text: Callable[[str], str]) -> Any:
    if isinstance(node, Mapping):
        return {_key(name, text): _clean(value, text) for name, value in node.items() if not _NAME.search(str(name))}
    if isinstance(node, list | tuple):
        return [_clean(item, text) for item in node]
    return text(node) if isinstance(node, str) else node


def _key(name: Any, text: Callable[[str], str]) -> Any:
    return text(name) if isinstance(name, str) else name


def _hider() -> Callable[[str], str]:
    values = {value for name, value in os.environ.items() if _NAME.search(name) and len(value) >= SHORTEST}
    given = sorted(values, key=len, reverse=True)

    def secret(text: str) -> str:
        for value in given:
            text = text.replace(value, HIDDEN)
        if "://" in text:
            text = _PASSWORD.sub(rf"\1:{HIDDEN}@", text)
        if "=" in text:
            text = _NAMED.sub(rf"\1{HIDDEN}", text)
        return _KNOWN.sub(HIDDEN, text)

    return secret


def _homeless() -> Callable[[str], str]:
    """Puts `~` for the home directory, as the environment names it and as it is without links."""
    try:
        homes = {str(Path.home()), os.path.realpath(Path.home())} - {"/", "."}
    except RuntimeError:  # no home at all
        homes = set()
    longest = sorted(homes, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w.~-])(?:{'|'.join(map(re.escape, longest))})(?![\w.-])") if longest else None

    def homeless(text: str) -> str:
        return pattern.sub("~", text) if pattern and any(home in text for home in longest) else text

    return homeless

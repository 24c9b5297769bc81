"""What a user reads in place of a traceback: errors of Hydra, OmegaConf and the operating system as one sentence."""

from __future__ import annotations

import errno
import os
import re

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from compress_exp.config.checks import UserError, nearest
from compress_exp.config.schema import GROUPS
from compress_exp.config.secrecy import hide

_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


class SweepFailed(Exception):
    """Jobs of a sweep failed; they were listed where they happened."""


def refusal(error: BaseException) -> str | None:
    """One sentence for what a user can mend, None for anything unexpected (which deserves its traceback)."""
    told = _refusal(error)
    return told and hide(told)


def _refusal(error: BaseException) -> str | None:
    if isinstance(error, UserError):
        return line(str(error))
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read as key=value: {_grammar(error.message)}"
    if isinstance(error, HydraException):
        return _composition(error)
    if isinstance(error, OmegaConfBaseException):
        place = f"{error.full_key}: " if error.full_key else ""
        return place + line(error.msg or str(error))
    if isinstance(error, yaml.YAMLError):
        return f"a configuration file is not valid YAML: {' '.join(str(error).split())}"
    if isinstance(error, OSError) and error.errno in _PLACE:
        place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "outputs"
        return f"{place}: {error.strerror}"
    if "No space left on device" in str(error):
        return f"outputs: no space left on the device ({line(str(error))})"
    return None


def sentence(error: BaseException) -> str:
    """One sentence for any failure; the type and the first line of what is no user's mistake."""
    first = (str(error).splitlines() or [""])[0]
    return refusal(error) or hide(f"{type(error).__name__}: {first}".removesuffix(": "))


def _composition(error: HydraException) -> str:
    text, cause = str(error), error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        merged = re.match(r"Error merging override (.*)", text)
        reason = line(cause.msg or str(cause))
        return f"{merged.group(1)}: {reason}" if merged else refusal(cause) or reason
    ambiguous = re.match(r"(?:Ambiguous value for argument|Sweep parameters) '([^']*)'", text)
    if ambiguous:
        return f"{ambiguous.group(1)}: several values need -m (a sweep), or brackets for a list: key=[a,b]"
    twice = re.match(
        r"(\S+) appears more than once|Multiple values for (\S+)\.|.*An item is already at '([^']+)'", text, re.DOTALL
    )
    if twice:
        key = next(filter(None, twice.groups()))
        if method := re.search(r"method\.(\w+)\.\w+$", key):
            way = f"write the further one as +method@method.{method[1]}2=<variant>"
            return f"method: two in one list have the key {method[1]}; {way}"
        return f"{key}: it is there already, write it without '+'"
    group = re.search(r"config group '([^']+)' does not exist", text)
    if group:
        return f"{group.group(1)}: there is no such group; {nearest(group.group(1), GROUPS)}"
    return " ".join(text.split("Config search path:")[0].split())


def _grammar(message: str) -> str:
    """The one line of the parser's message that speaks of the input."""
    lines = [line for line in message.splitlines() if line and not line.startswith(("Error parsing", "See https"))]
    if not lines or lines[0].startswith("Lexer"):
        return "a quote is not closed, or a character needs quotes"
    return lines[0].split(" expecting")[0]


def line(text: str) -> str:
    """The first line of a message; what follows is advice about Hydra."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "unknown error"

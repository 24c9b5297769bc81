"""Errors as one sentence: what the user wrote, where it went wrong, and what is allowed.

Nothing here imports torch: it is loaded at every start.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, Node
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from compress_exp.config import CONF, Root, UserError, nearest
from compress_exp.overrides import options
from compress_exp.secrecy import hide

CONFIG_NAME = "config"
GROUPS = ("model", "task", "method", "loss", "train", "hardware", "tracking")
_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


class SweepFailed(Exception):
    """Jobs of a sweep failed; they were listed where they happened."""


def refusal(error: BaseException) -> str | None:
    """One sentence for what a user can mend, None for anything unexpected (which deserves its traceback)."""
    told = _refusal(error)
    return told and hide(told)


def _refusal(error: BaseException) -> str | None:
    if isinstance(error, UserError):
        return _line(str(error))
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read as key=value: {_grammar(error.message)}"
    if isinstance(error, HydraException):
        return _composition(error)
    if isinstance(error, OmegaConfBaseException):
        place = f"{error.full_key}: " if error.full_key else ""
        return place + _line(error.msg or str(error))
    if isinstance(error, yaml.YAMLError):
        return f"a configuration file is not valid YAML: {' '.join(str(error).split())}"
    if isinstance(error, OSError) and error.errno in _PLACE:
        place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "outputs"
        return f"{place}: {error.strerror}"
    if "No space left on device" in str(error):
        return f"outputs: no space left on the device ({_line(str(error))})"
    return None


def sentence(error: BaseException) -> str:
    """One sentence for any failure; the type and the first line of what is no user's mistake."""
    first = (str(error).splitlines() or [""])[0]
    return refusal(error) or hide(f"{type(error).__name__}: {first}".removesuffix(": "))


def explain(error: HydraException, overrides: Sequence[str], loader: ConfigLoader) -> UserError:
    """The refusal of a configuration that does not compose, with the names that stand where the wrong one was.

    Args:
        error: what Hydra raised.
        overrides: those of the one job that was composed.
        loader: knows the choices, and composes the configuration once more without the wrong key.
    """
    message = refusal(error) or _line(str(error))
    if isinstance(error, MissingConfigException):
        return UserError(_missing(error, loader) or message)
    found: re.Match[str] | None = re.search(r"Could not (?:override|delete)(?: from config\.)? '([^']+)'", str(error))
    cause = error.__cause__
    given = found.group(1).split("@")[0] if found else ""
    deeper = str(cause.full_key or "") if isinstance(cause, ConfigKeyError | ConfigAttributeError) else ""
    key = max(given, deeper, key=len)
    if not key:
        return UserError(message)
    wrong = given or key.split(".")[0]
    rest = [item for item in overrides if re.split(r"[=@]", item.lstrip("+~"), maxsplit=1)[0] != wrong]
    try:
        config = loader.load_configuration(CONFIG_NAME, rest, RunMode.RUN)
    except HydraException:
        return UserError(message)
    return UserError(_unknown(key, config, [item for item in rest if not item.startswith("hydra")]) or message)


def check_root(config: DictConfig) -> None:
    """Refuse a root key that does not exist, and a group that was deleted or overwritten by a plain value.

    Raises:
        UserError: one sentence.
    """
    names = [item.name for item in fields(Root)]
    for name in map(str, config):
        if name not in names:
            raise UserError(f"{name}: there is no such key; {nearest(name, names)}")
    for name in GROUPS:
        if not isinstance(config[name], DictConfig):
            choices = sorted(path.stem for path in (CONF / name).glob("*.yaml"))
            raise UserError(f"{name}: a group needs one of its choices; allowed: {', '.join(choices)}")


def make_outputs(place: str) -> Path:
    """The directory that everything is written to, made and tried.

    Raises:
        UserError: it cannot be written.
    """
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UserError(f"outputs: nothing can be written in {place!r} ({error.strerror})") from error
    return Path(place)


def _unknown(key: str, config: DictConfig, rest: Sequence[str]) -> str | None:
    """Name the first part of a dotted key that does not exist, and what stands beside it."""
    node: Node | None = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth])
        names = [str(name) for name in node] if isinstance(node, DictConfig) else []
        if part not in names:
            level = f" in {where}" if where else ""
            given = f" with {' '.join(rest)}" if where == "method" and rest else ""
            names = [name for name in names if name != "hydra" and not name.startswith("_")]
            allowed = nearest(part, names) if names else f"{where} is a single value"
            if not depth and (deeper := _places(part, config)):
                allowed = f"did you mean {' or '.join(deeper)}?"
            return f"{key}: there is no key {part!r}{level}{given}; {allowed}"
        child = node._get_node(part) if isinstance(node, DictConfig) else None
        node = child if isinstance(child, Node) else None
    return None


def _places(key: str, config: DictConfig) -> list[str]:
    """Where below the root a key of that name stands: that of the methods first."""
    found = [f"{group}.{key}" for group in GROUPS if isinstance(node := config.get(group), DictConfig) and key in node]
    methods = config.get("method")
    inner = [(str(name), node) for name, node in methods.items()] if isinstance(methods, DictConfig) else []
    return [f"method.{name}.{key}" for name, node in inner if isinstance(node, DictConfig) and key in node] + found


def _missing(error: MissingConfigException, loader: ConfigLoader) -> str | None:
    """Name the group and its choices: those of the folder that was meant, near ones from everywhere."""
    path = (error.missing_cfg_file or "").split("/")
    depth = 2 if path[0] == "hydra" else 1
    group, name = "/".join(path[:depth]), "/".join(path[depth:])
    allowed = options(group, loader)
    if not name or not allowed:
        return f"{group}={name}: the group {group} is empty" if name else None
    folder = name.rpartition("/")[0]
    beside = [item for item in allowed if item.rpartition("/")[0] == folder]
    close = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    close += [item for item in allowed if item.rpartition("/")[2] == name and item not in close]
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{group}={name}: there is no such choice; {hint}allowed: {', '.join(beside or allowed)}"


def _composition(error: HydraException) -> str:
    text, cause = str(error), error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        merged = re.match(r"Error merging override (.*)", text)
        reason = _line(cause.msg or str(cause))
        return f"{merged.group(1)}: {reason}" if merged else refusal(cause) or reason
    ambiguous = re.match(r"(?:Ambiguous value for argument|Sweep parameters) '([^']*)'", text)
    if ambiguous:
        return f"{ambiguous.group(1)}: several values need -m (a sweep), or brackets for a list: key=[a,b]"
    twice = re.match(
        r"(\S+) appears more than once|Multiple values for (\S+)\.|.*An item is already at '([^']+)'", text, re.DOTALL
    )
    if twice:
        key = next(filter(None, twice.groups()))
        family = re.search(r"method\.(\w+)\.\w+$", key)
        if family:
            way = f"write the second as +method@method.{family[1]}2={family[1]}/<variant>"
            return f"method: two variants of {family[1]} in one pipeline share one key; {way}"
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


def _line(text: str) -> str:
    """The first line of a message; what follows is advice about Hydra."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "unknown error"

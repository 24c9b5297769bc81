"""Errors as one sentence: what the user wrote, where it went wrong, and what is allowed.

Nothing here imports torch: it is loaded at every start.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, Node
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from compress_exp.config.checks import UserError, nearest
from compress_exp.config.overrides import options
from compress_exp.config.refusal import line, refusal
from compress_exp.config.schema import CONF, GROUPS, Root

CONFIG_NAME = "config"


def explain(error: HydraException, overrides: Sequence[str], loader: ConfigLoader) -> UserError:
    """The refusal of a configuration that does not compose, with the names that stand where the wrong one was.

    Args:
        error: what Hydra raised.
        overrides: those of the one job that was composed.
        loader: knows the choices, and composes the configuration once more without the wrong key.
    """
    message = refusal(error) or line(str(error))
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

"""The one way to build an object from the configuration, checking names, types and ranges.

Nothing here imports torch or transformers: configuration errors must answer within a second.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from compress_exp.config.checks import FieldError, UserError, nearest


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin in (list, tuple) and isinstance(value, list | tuple) and typing.get_args(hint):
        return all(_fits(item, typing.get_args(hint)[0]) for item in value)
    expected = origin or hint
    return not isinstance(expected, type) or isinstance(value, expected)


def build(node: Any, key: str) -> Any:
    """Build the object that a configuration node describes, checking names, types and ranges.

    Args:
        node: a mapping with `_target_` (a dataclass or a class) and its arguments; nested ones are built first.
        key: where the node stands in the configuration, for the error.

    Raises:
        UserError: one sentence that names the key, the value and what is allowed.
    """
    config: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    if isinstance(config, Mapping) and "_target_" in config:
        return _construct(config, key)
    if isinstance(config, Mapping):
        return {name: build(value, f"{key}.{name}") for name, value in config.items()}
    return config


def _construct(config: Mapping[str, Any], key: str) -> Any:
    try:
        target = get_class(config["_target_"])
    except Exception as error:
        raise UserError(f"{key}._target_: {config['_target_']!r} cannot be imported ({error})") from error
    arguments = {name: build(value, f"{key}.{name}") for name, value in config.items() if name != "_target_"}
    hints = typing.get_type_hints(target if is_dataclass(target) else inspect.getattr_static(target, "__init__"))
    names = [item.name for item in fields(target)] if is_dataclass(target) else [n for n in hints if n != "return"]
    for name, value in arguments.items():
        if name not in names:
            raise UserError(f"{key}.{name}: there is no such key; {nearest(name, names)}")
        if not _fits(value, hints.get(name, Any)):
            raise UserError(f"{key}.{name}: {value!r} is not allowed, {_spell(hints[name])} is")
        if isinstance(value, list) and typing.get_origin(hints.get(name)) is tuple:
            arguments[name] = tuple(value)
        if isinstance(value, int) and not isinstance(value, bool) and _is_float(hints.get(name)):
            arguments[name] = float(value)
    if is_dataclass(target):
        for item in fields(target):
            needed = item.default is MISSING and item.default_factory is MISSING
            if needed and item.name not in arguments:
                raise UserError(f"{key}.{item.name}: this key must be set")
    try:
        return target(**arguments)
    except FieldError as error:
        raise error.at(key) from error


def _is_float(hint: Any) -> bool:
    """Whether a number is to be a float, so that 1 and 1.0 are one setting with one key."""
    options = typing.get_args(hint) or (hint,)
    return float in options and int not in options


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_spell(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) in (list, tuple) and typing.get_args(hint):
        return f"a list (each {_spell(typing.get_args(hint)[0])})"
    plain = {float: "a number", int: "a whole number", bool: "true or false", str: "a string", type(None): "null"}
    return plain.get(hint, str(hint))


def plain(node: Any) -> Any:
    """The resolved node as plain dictionaries, lists and scalars."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node

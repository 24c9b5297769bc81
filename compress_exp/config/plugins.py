"""Files of the user's own packages that stand beside ours: families, kinds of layers, codecs and runtimes.

The packages are those that the environment variable COMPRESS_EXP_PLUGINS names, separated by commas, and those of the
root key `plugins`, which are added to it: so every process that this one starts finds them too. An artifact may name a
kind or a type, never a package: nothing is imported because data say so.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compress_exp.config.checks import UserError

VARIABLE = "COMPRESS_EXP_PLUGINS"


def plugins() -> tuple[str, ...]:
    """The packages that the user names, in order."""
    return tuple(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())


def use(packages: Any, key: str = "plugins") -> None:
    """Let this process, and those that it starts, look into these packages too.

    Args:
        packages: their names.
        key: where they stand, for the error.

    Raises:
        UserError: it is no list of packages that can be imported.
    """
    if not isinstance(packages, Sequence) or isinstance(packages, str):
        raise UserError(f"{key}: {packages!r} is not allowed, a list of packages is, as in [my_package]")
    for name in packages:
        _check(name, key)
    if packages:
        os.environ[VARIABLE] = ",".join(dict.fromkeys((*plugins(), *packages)))


def modules(own: str) -> dict[str, str]:
    """The modules of one of our rooms and of the folders of its name in the user's packages, by their files' names.

    Args:
        own: the room as it is imported, such as "compress_exp.models.families".

    Raises:
        UserError: a package is not there, or a file has the name of another.
    """
    return _modules(own, plugins())


@lru_cache
def _modules(own: str, packages: tuple[str, ...]) -> dict[str, str]:
    folder = own.rpartition(".")[2]
    found = {stem: f"{own}.{stem}" for stem in _stems(own)}
    for name in packages:
        _check(name, VARIABLE)
        for stem in _stems(f"{name}.{folder}"):
            if stem in found:
                raise UserError(f"plugins: {name}.{folder}.{stem} has the name of {found[stem]}; rename the file")
            found[stem] = f"{name}.{folder}.{stem}"
    return found


def _stems(package: str) -> list[str]:
    spec = find_spec(package)
    places = [] if spec is None else spec.submodule_search_locations or []
    return sorted(file.stem for place in places for file in Path(place).glob("*.py") if file.stem != "__init__")


def _check(name: Any, key: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        raise UserError(f"{key}: {name!r} is no name of a package; allowed are such as my_package")
    try:
        package = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        hint = "install it, or put the directory that it is in on PYTHONPATH"
        raise UserError(f"{key}: there is no package {name!r} here; {hint}") from None
    if not hasattr(package, "__path__"):
        raise UserError(f"{key}: {name!r} is a single file and no package; put it into a directory of that name")

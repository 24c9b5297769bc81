"""What one argument of the command line stands for: a single override, or the values of a sweep.

Nothing here imports torch: it is loaded at every start.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override

from compress_exp.config.checks import UserError


def at_home(argument: str) -> str:
    """The argument with the home directory for a `~` that its value begins with, as a shell reads an assignment."""
    key, mark, value = argument.partition("=")
    return f"{key}={Path(value).expanduser()}" if mark and (value == "~" or value.startswith("~/")) else argument


def parse(arguments: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """Hydra's reading of the arguments."""
    return OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))


def combinations(arguments: Sequence[str], loader: ConfigLoader) -> list[list[str]]:
    """The overrides of every job, the first argument varying slowest; of two with one key the later counts."""
    axes = {override.get_key_element(): values(override, loader) for override in parse(arguments, loader)}
    return [list(job) for job in itertools.product(*axes.values())]


def values(override: Override, loader: ConfigLoader) -> list[str]:
    """The overrides `key=value` that one argument stands for.

    Raises:
        UserError: it is a sweep of nothing, or of a continuous interval.
    """
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise UserError(
            f"{override.input_line}: a grid needs single values, such as range(1,4) or 1,2,3; "
            "hydra/sweeper=optuna draws from an interval"
        )
    found = _globbed(override, loader) or [str(value) for value in override.sweep_string_iterator()]
    if not found:
        allowed = ", ".join(options(override.key_or_group, loader))
        known = f"; allowed: {allowed}" if allowed else ""
        raise UserError(f"{override.input_line}: nothing matches, so there would be no run{known}")
    return [f"{override.get_key_element()}={value}" for value in found]


class Listing(Protocol):
    """What knows the options of a configuration group: Hydra's loader, or its repository (much faster)."""

    def get_group_options(self, group_name: str, results_filter: ObjectType | None) -> list[str]:
        """Files or folders of a group."""
        ...


def options(group: str, listing: Listing) -> list[str]:
    """The choices of a configuration group, those in its folders included."""
    names = list(listing.get_group_options(group, ObjectType.CONFIG))
    for folder in listing.get_group_options(group, ObjectType.GROUP):
        names += [f"{folder}/{name}" for name in options(f"{group}/{folder}", listing)]
    return names


def _globbed(override: Override, loader: ConfigLoader) -> list[str]:
    """What a pattern with a folder in it matches: Hydra looks at the group's own files only."""
    pattern = override._value
    if not isinstance(pattern, Glob) or not any("/" in item for item in pattern.include):
        return []
    return pattern.filter(options(override.key_or_group, loader))

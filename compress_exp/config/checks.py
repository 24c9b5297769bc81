"""Checks that answer in one sentence, and the errors that carry it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A mistake of the user's, told in one sentence: what, where, and what is allowed or what to do."""


class FieldError(ValueError):
    """A bad value of one field, or (with an empty name) of a whole object, which does not know where it stands."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}" if name else message)
        self.name, self.message = name, message

    def at(self, key: str) -> UserError:
        """The same for the user, with the key of the object in the configuration."""
        return UserError(f"{key}.{self.name}: {self.message}" if self.name else f"{key}: {self.message}")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A clause that names the closest allowed spellings and lists the rest."""
    names = [str(item) for item in allowed]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}allowed: {', '.join(names)}"


def check_number(name: str, value: Any, low: float | None = None, high: float | None = None) -> None:
    """Require a finite number with low ≤ value ≤ high."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (low is not None and value < low) or (high is not None and value > high):
        bounds = f" between {low:g} and {high:g}" if low is not None and high is not None else ""
        bounds = bounds or (f" of at least {low:g}" if low is not None else "")
        bounds = bounds or (f" of at most {high:g}" if high is not None else "")
        raise FieldError(name, f"{value!r} is not allowed, a number{bounds} is")


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Require one of the allowed strings."""
    if value not in (options := list(allowed)):
        raise FieldError(name, f"{value!r} is not allowed; {nearest(str(value), options)}")

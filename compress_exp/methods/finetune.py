"""The dense control: nothing is compressed, the same extra training is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compress_exp.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class Finetune(Method):
    """Train the parent further, as every method that recovers by training does."""

    origin: ClassVar[str] = "finetune"

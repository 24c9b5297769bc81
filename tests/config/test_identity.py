"""What counts in keys: pinned names, versions, the source of foreign code, and fields that came later."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf

from compress_exp.config.identity import later, origin, settings
from compress_exp.config.schema import CONF

OWN = '''
from dataclasses import dataclass
from typing import ClassVar

from compress_exp.methods.finetune import Finetune


@dataclass(frozen=True, kw_only=True)
class Own(Finetune):
    """One's own."""

    rate: float = {rate}
'''


@dataclass(frozen=True)
class Before:
    size: int = 3


@dataclass(frozen=True)
class After:
    size: int = 3
    slope: float = later(0.5, before=0.0)


def test_a_later_field_is_left_out_only_where_it_is_as_before() -> None:
    assert settings(After(slope=0.0)) == settings(Before())
    assert settings(After()) == {"size": 3, "slope": 0.5}
    assert settings(Before(size=4)) == {"size": 4}


def targets() -> set[type]:
    files = [*CONF.glob("method/**/*.yaml"), *CONF.glob("loss/**/*.yaml"), *CONF.glob("task/**/*.yaml")]
    names = {OmegaConf.load(file).get("_target_") for file in files} - {None}
    parts = [str(name).rpartition(".") for name in names]
    return {getattr(importlib.import_module(module), name) for module, _, name in parts}


def test_every_class_that_decides_a_result_has_a_name_of_its_own() -> None:
    kinds = targets()
    pinned = {(kind.__module__.split(".")[1], origin(kind)["origin"]) for kind in kinds}
    assert len(pinned) == len(kinds) > 25


def write(place: Path, rate: float) -> ModuleType:
    (place / "own_method.py").write_text(OWN.format(rate=rate))
    sys.modules.pop("own_method", None)
    importlib.invalidate_caches()
    return importlib.import_module("own_method")


def test_an_edited_method_from_elsewhere_counts_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first, same, edited = (origin(write(tmp_path, rate).Own) for rate in (0.1, 0.1, 0.25))
    assert first == same != edited
    assert first["origin"] == "Own"

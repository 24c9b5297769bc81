"""What searches share: a small application, and its log handlers kept apart."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.search.app import write_conf

pytest.importorskip("optuna", reason="the extra optuna is not installed")


@pytest.fixture(autouse=True)
def _own_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuring logging closes every handler of the process, and absl's closes its stream: pytest's capture."""
    monkeypatch.setattr(logging, "_handlerList", [])
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it, and a table wraps then


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """The application's configuration; its outputs are in `conf.parent / "out"`."""
    return write_conf(tmp_path)

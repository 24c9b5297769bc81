"""Where the configuration files are, and its structured root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

PACKAGE = Path(__file__).resolve().parents[1]
SOURCE_CONF = PACKAGE.parent / "conf"
CONF = SOURCE_CONF if (SOURCE_CONF / "config.yaml").is_file() else PACKAGE / "conf"
GROUPS = ("model", "task", "method", "loss", "recovery", "train", "hardware", "tracking")


@dataclass
class Root:
    """The structured root of the configuration; the groups below it are checked when they are built."""

    model: Any = None
    task: Any = None
    method: Any = None
    stages: Any = None
    loss: Any = None
    recovery: Any = None
    train: Any = None
    hardware: Any = None
    tracking: Any = None
    seed: int = 0
    teacher: Any = "baseline"
    teacher_cache: Any = None
    outputs: str = "outputs"
    plugins: Any = None
    plan: bool = False
    force: str | None = None
    since: float | None = None
    until: Any = None
    lease_seconds: float = 60.0
    measure: Any = None
    score: Any = None
    objectives: Any = None


ConfigStore.instance().store(name="schema", node=Root)

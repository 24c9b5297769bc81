"""A small Hydra application with an analytic task for the real sweeper: `python -m tests.search.app CONF …`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from compress_exp.config.checks import UserError
from compress_exp.config.compose import Loader
from compress_exp.config.refusal import SweepFailed, refusal
from compress_exp.config.schema import CONF
from compress_exp.outputs.files import digest, write_json
from compress_exp.outputs.lease import leased
from compress_exp.outputs.manifest import Identity
from compress_exp.outputs.progress import reported

CONFIG = """
defaults:
  - method: prune
  - override hydra/sweeper: optuna
  - override hydra/job_logging: plain
  - override hydra/hydra_logging: plain
  - _self_
seed: 0
outputs: {outputs}
lease_seconds: 5
plan: false
until: null
unlucky: 2 # a sparsity from which runs fail
objectives: [quality/retained, size/artifact_bytes]
task: {{_target_: tests.search.app.Task, holdout: 0.0, evaluate_on: null, name: toy}}
hydra:
  output_subdir: null
  run: {{dir: "${{outputs}}"}}
  sweep: {{dir: "${{outputs}}", subdir: "."}}
  sweeper: {{identify: tests.search.app.identify}}
"""
METHODS = {
    "prune": "# @package method.prune\nsparsity: 0.5\n",
    "quant": "# @package method.quant\nbits: 8\nscale: 1.0\n",
    "distill": "# @package method.distill\ndefaults:\n  - /loss@loss: soft\n",
}
LOSSES = {"soft": "temperature: 2.0\n", "hard": "smoothing: 0.0\n"}
WEIGHTS = {"accuracy": 1, "compression": 1, "speed": 1}
NEUTRAL = ("outputs", "objectives", "lease_seconds", "unlucky")


class Task:
    """What a search asks of a task."""

    def __init__(self, holdout: float, evaluate_on: str | None, name: str) -> None:
        self.higher_is_better = name != "perplexity"


def write_conf(directory: Path) -> Path:
    files = {f"method/{name}": text for name, text in METHODS.items()}
    files |= {f"loss/{name}": text for name, text in LOSSES.items()}
    for name, text in files.items():
        path = directory / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "conf" / "hydra").symlink_to(CONF / "hydra")
    (directory / "conf" / "config.yaml").write_text(CONFIG.format(outputs=directory / "out"))
    return directory / "conf"


def identify(config: DictConfig) -> Identity:
    content = {str(key): value for key, value in OmegaConf.to_container(config).items() if key not in NEUTRAL}  # type: ignore[union-attr]
    if config.seed == 13:
        raise UserError("seed: 13 is unlucky")
    return Identity(digest(content), digest(content), (), None, None, False, WEIGHTS)


def formulas(method: Any) -> tuple[float, float]:
    """Quality and bytes of a configuration."""
    quality, size = 1.0, 1e6
    if "prune" in method:
        quality, size = (
            quality - 0.5 * float(method["prune"]["sparsity"]) ** 2,
            size * (1 - method["prune"]["sparsity"]),
        )
    if "quant" in method:
        quality, size = quality - 0.4 / float(method["quant"]["bits"]), size * method["quant"]["bits"] / 32
    return quality, size


def run(config: DictConfig) -> dict[str, Any]:
    """Note that the run was begun; after `PAUSE` seconds write its record."""
    own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    directory = Path(config.outputs) / "runs" / identify(own).name
    with (Path(config.outputs) / "done.txt").open("a") as stream:
        stream.write(f"{directory.name} {os.getpid()}\n")
    if Path(config.outputs, "full").exists():
        raise UserError("outputs: there is no room")
    with leased(directory, 60.0, directory.name) as lease, reported(directory, directory.name, (), lease):
        record = measure(config, directory.name)
        write_json(directory / "record.json", record)
    return record


def measure(config: DictConfig, name: str) -> dict[str, Any]:
    time.sleep(float(os.environ.get("PAUSE", "0")))
    if "prune" in config.method and config.method.prune.sparsity >= config.unlucky:
        raise UserError("method.prune.sparsity: out of luck")
    quality, size = formulas(config.method)
    shift = 0.01 if config.task.evaluate_on == "validation" else 0.0
    blocks: dict[str, Any] = dict.fromkeys(("memory", "energy", "stages", "cost", "origin"), {})
    return blocks | {
        "schema": 1,
        "run": {"id": name, "name": name},
        "quality": {
            "primary": {"name": "accuracy", "value": quality - shift, "higher_is_better": True},
            "baseline": {"accuracy": 1.0},
            "retained": quality - shift,
            "split": config.task.evaluate_on,
        },
        "size": {"artifact_bytes": size, "compression_ratio": 1e6 / size},
        "latency": {"rows": []},
        "score": {},
    }


def sweep(conf: Path, *overrides: str) -> None:
    version.setbase("1.3")
    hydra = Hydra(task_name="app", config_loader=Loader(create_config_search_path(str(conf))))
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)
    try:
        hydra.multirun("config", run, list(overrides))
    finally:
        GlobalHydra.instance().clear()


def done(outputs: Path) -> list[str]:
    """The runs that were done, in order."""
    file = outputs / "done.txt"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def records(outputs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(outputs.glob("runs/*/record.json"))]


if __name__ == "__main__":
    try:
        sweep(Path(sys.argv[1]), *sys.argv[2:])
    except (UserError, SweepFailed) as error:
        print(refusal(error) or error, file=sys.stderr)
        sys.exit(1)

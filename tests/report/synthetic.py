"""Seeded synthetic outputs: many runs with ties, missing values, undefined quality, failures and odd names."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from compress_exp.outputs.score import weighted_score

WEIGHTS = {"accuracy": 1, "compression": 1, "speed": 1}
MODELS = {"tiny_bert": 17.6, "bert": 438.0, "distilbert": 268.0}
TASKS = {"sst2": ("accuracy", 0.92, True), "cola": ("matthews", 0.57, True), "wikitext2": ("perplexity", 24.0, False)}
PIPELINES: tuple[tuple[str, ...], ...] = (
    ("prune/magnitude",),
    ("prune/movement",),
    ("quant/int8",),
    ("quant/bf16",),
    ("distill/hard",),
    ("distill/soft_targets",),
    ("distill/soft_targets", "quant/int8"),
    ("distill/soft_targets", "prune/magnitude", "quant/int8"),
)
LEVELS = (0.3, 0.5, 0.8)
SEEDS = (0, 1, 2)
EFFECTS = {"prune": (1.0, 1.0, 0.02), "quant": (3.6, 1.5, 0.006), "distill": (1.8, 1.8, 0.015)}


def outputs(directory: Path, count: int = 500, seed: int = 0) -> Path:
    """A directory as a sweep leaves it, with so many records and a few runs that have none."""
    chance = random.Random(seed)
    made = []
    for task in TASKS:
        for model in MODELS:
            for pipeline in PIPELINES:
                for level in LEVELS:
                    made += [record(chance, task, model, pipeline, level, item) for item in SEEDS]
    chance.shuffle(made)
    chosen = made[:count]
    for index, item in enumerate(chosen):
        if index % 40 == 7:
            item["quality"]["primary"]["value"] = math.nan
            item["quality"]["retained"] = None
        if index % 40 == 13:
            item["latency"] = {"rows": []}
        if index % 40 == 21:
            item["size"]["compression_ratio"] = None
            del item["memory"], item["energy"], item["cost"]
        if index % 40 == 29:
            item["origin"] = {}
        if index % 40 == 33:
            item["stages"] = None
        item["score"] = weighted_score(item, WEIGHTS)
        _save(directory, item)
    _failures(directory)
    return directory


def record(
    chance: random.Random, task: str, model: str, pipeline: tuple[str, ...], level: float, seed: int
) -> dict[str, Any]:
    """One complete record."""
    metric, dense, higher = TASKS[task]
    dense = round(dense * chance.uniform(0.98, 1.01), 4)
    base_bytes = MODELS[model] * 1e6
    base_ms = MODELS[model] ** 0.7
    ratio, speed, loss = 1.0, 1.0, 0.0
    stages = []
    name = "-".join(part.replace("/", ".") for part in pipeline)
    key = f"{model}-{task}-{name}-{level}-{seed}"
    for index, part in enumerate(pipeline):
        family = part.partition("/")[0]
        small, quick, cost = EFFECTS[family]
        ratio *= 1 / (1 - 0.85 * level) if family == "prune" else small
        speed *= chance.uniform(0.94, 1.02) if family == "prune" else quick * chance.uniform(0.95, 1.05)
        loss += cost * level * chance.uniform(0.2, 2.0) + (0.01 if part == "distill/hard" else 0.0)
        last = index == len(pipeline) - 1
        artifact = f"{key}-{index}" if not last else key
        stages.append(
            {"methods": [part], "artifact": artifact, "seconds": chance.uniform(20, 200), "steps": 400}
            | {"bytes": base_bytes / ratio, "quality": None}
        )
    value = dense * (1 - loss) if higher else dense * (1 + loss)
    value = round(value, 3)  # ties
    timings = [
        _timing(base_ms, speed * chance.uniform(0.99, 1.01), *shape) for shape in ((1, 128), (8, 128), (1, 32), (8, 32))
    ]
    overrides = ["method=[" + ",".join(pipeline) + "]", f"model={model}", f"task={task}", f"seed={seed}"]
    overrides += [f"method.{pipeline[0].partition('/')[0]}.level={level}"]
    rows = 277 if task == "cola" else 872
    return {
        "schema": 1,
        "run": {
            "id": key,
            "name": f"{model}-{task}-{name}-s{seed}-{level}",
            "model": model,
            "task": task,
            "method": list(pipeline),
            "loss": ["SoftTargets" if part == "distill/soft_targets" else "TaskLoss" for part in pipeline],
            "hardware": "cpu",
            "runtime": {"name": "openvino", "threads": 1, "precision": "f32"},
            "seed": seed,
            "command": "python -m compress_exp -m experiment=families",
            "overrides": overrides,
        },
        "quality": {
            "primary": {"name": metric, "value": value, "higher_is_better": higher},
            "metrics": {metric: value},
            "baseline": {metric: dense},
            "retained": value / dense if higher else dense / value,
            "interval": [value - 0.01 * dense, value + 0.01 * dense],
            "baseline_interval": [dense - 0.01 * dense, dense + 0.01 * dense],
            "rows": rows,
            "split": "validation",
            "settings": {"kind": "classification", "rows": task},
        },
        "size": {
            "artifact_bytes": base_bytes / ratio,
            "baseline_artifact_bytes": base_bytes,
            "compression_ratio": ratio,
        },
        "latency": {"rows": timings},
        "memory": {"peak_rss_bytes": 2e8 + base_bytes / ratio, "baseline_peak_rss_bytes": 2e8 + base_bytes},
        "energy": {"joules_per_1000": None, "baseline_joules_per_1000": None},
        "flags": ["zeros: no speed-up expected on this runtime"] if "prune" in name else [],
        "stages": stages,
        "cost": {"baseline_seconds": 240.0, "measuring_seconds": chance.uniform(20, 60)},
        "origin": {
            "host": "node1",
            "cpu": "Some CPU",
            "cores": 16,
            "artifact": key,
            "baseline": f"{model}-{task}-dense-{seed}",
            "methods": [
                {"method": f"compress_exp.{part.partition('/')[0]}", "level": level, "version": 1} for part in pipeline
            ],
        },
    }


def _timing(dense_ms: float, speed: float, batch: int, length: int) -> dict[str, Any]:
    base = dense_ms * batch**0.9 * length / 128
    return {
        "batch_size": batch,
        "length": length,
        "p50_ms": base / speed,
        "p99_ms": 1.3 * base / speed,
        "baseline": {"p50_ms": base, "p99_ms": 1.2 * base},
        "speedup": speed,
        "speedup_interval": [speed * 0.98, speed * 1.02],
        "speedup_over_eager": speed * 1.4,
    }


def _save(directory: Path, item: dict[str, Any]) -> None:
    place = directory / "runs" / item["run"]["name"]
    place.mkdir(parents=True)
    (place / "record.json").write_text(json.dumps(item))
    origin = item["origin"]
    keys = [origin["baseline"], *(row["artifact"] for row in item["stages"])] if origin and item["stages"] else []
    for index, key in enumerate(keys):
        history = directory / "artifacts" / key
        if history.exists():
            continue
        history.mkdir(parents=True)
        (history / "build.json").write_text(json.dumps({"steps": 400}))
        columns = ["step", "hard", "loss"] if index == 0 else ["step", "hard", "soft", "loss", "sparsity"]
        lines = [",".join(columns)]
        for step in range(0, 400, 2):
            hard = 0.7 * math.exp(-step / 120)
            lines.append(
                ",".join(f"{number:.6g}" for number in (step, hard, hard / 2, hard * 1.5, step / 500)[: len(columns)])
            )
        (history / "history.csv").write_text("\n".join(lines) + "\n")


def _failures(directory: Path) -> None:
    members = []
    for index, (state, reason) in enumerate(
        [
            ("failed", "CUDA out of memory: 81 MB were asked for"),
            ("refused", "method.prune.sparsity=1.5: at most 1"),
            ("missing", None),
        ]
    ):
        members.append(
            {
                "overrides": ["method=prune", f"seed={index}"],
                "run": f"lost{index}",
                "name": None if state == "refused" else f"lost-{index}",
            }
            | {"chain": [], "force": None, "until": None, "state": state, "reason": reason}
        )
    place = directory / "sweeps" / "s0"
    place.mkdir(parents=True)
    head = {
        "schema": 1,
        "id": "s0",
        "command": "python -m compress_exp -m method=prune seed=0,1,2",
        "host": "node1",
        "pid": 1,
    }
    head |= {"started": "2026-11-21T10:00:00+00:00", "updated": "2026-11-21T11:00:00+00:00"}
    (place / "sweep.json").write_text(json.dumps(head | {"members": members}))

"""What the measuring process does: load both models from disk, evaluate them, and time them in turns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compress_exp.config import build
from compress_exp.measure.hardware import Hardware, available_cores
from compress_exp.measure.latency import HEADLINE_ROUNDS, OTHER_ROUNDS, in_turns, row, shapes
from compress_exp.measure.runtimes import Call, EagerPredictor, OpenVINOPredictor, random_ids
from compress_exp.store import Store

UNUSED_CORES = 0.8
NO_SPEEDUP = 1.1
SPARSE = 0.05


@dataclass
class Subject:
    """One model as it is measured."""

    path: Path
    eager: EagerPredictor
    deployed: EagerPredictor | OpenVINOPredictor
    tokenizer: Any

    @property
    def files(self) -> Path:
        """The directory of what the runtime loads."""
        return self.deployed.directory if isinstance(self.deployed, OpenVINOPredictor) else self.path

    def ids(self, batch: int, length: int) -> Any:
        """Input ids of its own vocabulary."""
        return random_ids(self.eager.config.vocab_size, self.special, batch, length)

    def with_threads(self, threads: int) -> EagerPredictor | OpenVINOPredictor:
        """The deployed model on so many threads; for evaluation, whose numbers do not depend on them."""
        if not isinstance(self.deployed, OpenVINOPredictor):
            return self.deployed
        return OpenVINOPredictor(self.files, self.eager.config, self.deployed.precision(), threads)

    @property
    def special(self) -> list[int]:
        """Ids that are not text."""
        return [int(token) for token in self.tokenizer.all_special_ids]


def compare(job: dict[str, Any]) -> dict[str, Any]:
    """Evaluate, count and time.

    Args:
        job: artifact, baseline, task, hardware, keys, evaluations, deploy, stages, newer_than, lease_seconds, progress:
            see `measure`.
    """
    task, hardware = build(job["task"], "task"), build(job["hardware"], "hardware")
    import torch

    from compress_exp.measure.energy import energy
    from compress_exp.measure.quality import evaluate, quality
    from compress_exp.measure.size import DEPLOYED, bytes_of, size
    from compress_exp.models.families.base import family_of

    own_path, dense_path = Path(job["artifact"]), Path(job["baseline"])
    kind = family_of(json.loads((own_path / "config.json").read_text())["model_type"]).kind
    runtime, store = hardware.runtime[kind], Store(Path(job["evaluations"]), job["lease_seconds"])
    own = _subject(own_path, hardware, runtime, Path(job["deploy"]), None)
    dense = _subject(dense_path, hardware, runtime, store, job["keys"]["baseline"])
    hardware.check_host(kind, _has_int8(own))

    cores = available_cores()

    def evaluated(subject: Subject, key: str, newer_than: float) -> Any:
        identity = {"artifact": key, "runtime": hardware.evaluation_identity(kind), "task": task.evaluation_identity()}
        recipe = {"kind": "evaluation", **identity}
        predictor, since = partial(subject.with_threads, cores), max(newer_than, built_at(subject.path))
        return evaluate(store, recipe, task, predictor, subject.tokenizer, job["progress"], since)

    torch.set_num_threads(cores)
    keys = job["keys"]
    evaluations = evaluated(own, keys["artifact"], job["newer_than"]), evaluated(dense, keys["baseline"], 0.0)
    stages = {
        key: evaluated(_subject(Path(path), hardware, runtime, store, key), key, 0.0).metrics
        for key, path in job["stages"].items()
    }
    torch.set_num_threads(hardware.threads)
    rows = _rows(own, dense, hardware, kind)
    measured_size = size(
        own_path,
        own.eager.model,
        dense_path,
        bytes_of(own.files, DEPLOYED[runtime]),
        bytes_of(dense.files, DEPLOYED[runtime]),
    )
    return {
        "quality": quality(task, *evaluations),
        "stages": stages,
        "size": measured_size,
        "latency": {**rows[0], "rows": rows},
        "energy": energy(),
        "runtime": _runtime(own, dense, hardware, kind),
        "flags": _flags(own, dense, hardware, rows),
        "memory_jobs": {
            name: {
                "directory": str(subject.files),
                "runtime": runtime,
                "device": hardware.device,
                "precision": subject.deployed.precision(),
                "threads": hardware.threads,
                "vocabulary": subject.eager.config.vocab_size,
                "special": subject.special,
                "batch": rows[0]["batch_size"],
                "length": rows[0]["length"],
                "new_tokens": rows[0].get("new_tokens"),
            }
            for name, subject in (("artifact", own), ("baseline", dense))
        },
    }


def _subject(path: Path, hardware: Hardware, runtime: str, place: Path | Store, key: str | None) -> Subject:
    """Load a model and put it into its runtime.

    Args:
        path: its artifact.
        hardware: the profile.
        runtime: "openvino" or "eager".
        place: where an export goes: a directory, or a store that keeps it under the key.
        key: of the artifact, for a store.
    """
    from transformers import AutoTokenizer

    from compress_exp.export.artifact import load
    from compress_exp.export.openvino import export_model, stored_precision

    model, tokenizer = load(path), AutoTokenizer.from_pretrained(path)
    if runtime == "eager":
        predictor = EagerPredictor(model, hardware.device)
        return Subject(path, predictor, predictor, tokenizer)
    if isinstance(place, Store):
        recipe = {"kind": "openvino", "artifact": key, **hardware.evaluation_identity("encoder")}
        directory = place.get(recipe, lambda partial, check: _export(model, partial), "OpenVINO export", built_at(path))
    else:
        directory = place
        export_model(model, directory)
    precision = stored_precision(path) if stored_precision(path) != "f32" else hardware.precision
    deployed = OpenVINOPredictor(directory, model.config, precision, hardware.threads)
    return Subject(path, EagerPredictor(model), deployed, tokenizer)


def built_at(artifact: Path) -> float:
    """When an artifact was finished: nothing made from it may be older."""
    facts = artifact / "build.json"
    return facts.stat().st_mtime if facts.exists() else 0.0


def _export(model: Any, directory: Path) -> dict[str, Any]:
    from compress_exp.export.openvino import export_model

    export_model(model, directory)
    return {}


def _has_int8(subject: Subject) -> bool:
    from compress_exp.layers.int8 import Int8Linear

    return any(isinstance(module, Int8Linear) for module in subject.eager.model.modules())


def _rows(own: Subject, dense: Subject, hardware: Hardware, kind: str) -> list[dict[str, Any]]:
    from compress_exp.tasks.features import max_positions

    generating = kind != "encoder"
    limits = [limit for subject in (own, dense) if (limit := max_positions(subject.eager.config)) is not None]
    new_tokens = min([hardware.new_tokens, *(limit // 2 for limit in limits)]) if generating else None
    longest = min(limits) - (new_tokens or 0 if kind == "decoder" else 0) if limits else None
    subjects = {"artifact": own.deployed, "baseline": dense.deployed}
    eager = "baseline"
    if dense.deployed is not dense.eager:
        subjects["eager"], eager = dense.eager, "eager"
    rows: list[dict[str, Any]] = []
    for batch, length in shapes(hardware.batch_sizes, hardware.lengths, longest):
        calls: dict[str, Call] = {}
        for name, predictor in subjects.items():
            ids = (own if name == "artifact" else dense).ids(batch, length)
            if new_tokens is None:
                calls[name] = predictor.forward_call(ids)
            elif isinstance(predictor, EagerPredictor):
                calls[name] = predictor.generate_call(ids, new_tokens)
                calls[f"{name} prompt"] = predictor.generate_call(ids, 1)
        minimum = OTHER_ROUNDS if rows else HEADLINE_ROUNDS
        turns = in_turns(calls, max(hardware.rounds, minimum), hardware.seconds, minimum)
        rows.append(row(turns, batch, length, eager, new_tokens))
    return rows


def _runtime(own: Subject, dense: Subject, hardware: Hardware, kind: str) -> dict[str, Any]:
    return {
        "name": hardware.runtime[kind],
        **{name: value for name, value in hardware.evaluation_identity(kind).items() if name in ("version", "device")},
        "threads": hardware.threads,
        "precision": own.deployed.precision(),
        "baseline_precision": dense.deployed.precision(),
        "executed": own.deployed.executed(),
        "baseline_executed": dense.deployed.executed(),
    }


def _flags(own: Subject, dense: Subject, hardware: Hardware, rows: list[dict[str, Any]]) -> list[str]:
    """Short sentences about what a reader of the numbers must know.

    Raises:
        RuntimeError: the runtime does not run what was asked of it.
    """
    from compress_exp.export.openvino import check_integer
    from compress_exp.measure.size import zeros_in_matrices

    flags = []
    if _has_int8(own):
        if not hardware.integer_kernels():
            flags.append("slow: int8 without integer kernels")
        elif isinstance(own.deployed, OpenVINOPredictor):
            check_integer(own.deployed.directory, own.deployed.compiled)
    for subject in (own, dense):
        asked = "bf16" if subject.eager.precision() == "bf16" else hardware.precision
        if (used := subject.deployed.precision()) != asked:
            flags.append(f"precision: {asked} was asked for, the runtime uses {used}")
    added = zeros_in_matrices(own.eager.model) - zeros_in_matrices(dense.eager.model)
    if added > SPARSE and rows[0]["speedup_interval"][0] < NO_SPEEDUP:
        flags.append("zeros: no speed-up expected on this runtime")
    worst = min(rows, key=lambda row: min(row["cores"], row["baseline"]["cores"]))
    cores = min(worst["cores"], worst["baseline"]["cores"])
    if hardware.device == "cpu" and cores < UNUSED_CORES * hardware.threads:
        shape = f"{worst['batch_size']} × {worst['length']}"
        flags.append(f"cores: the timing of {shape} used {cores:.2f} cores with threads={hardware.threads}")
    return flags

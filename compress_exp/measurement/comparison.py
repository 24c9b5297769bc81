"""What the measuring process does: load both models from disk, put them into runtimes, time them in turns, evaluate."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from compress_exp.config.build import build
from compress_exp.measurement.cpu import cpu_identity, multiplies_integers
from compress_exp.measurement.hardware import AUTO
from compress_exp.measurement.latency import (
    EAGER_BASELINE,
    HEADLINE_ROUNDS,
    OTHER_ROUNDS,
    Choice,
    Turns,
    fastest,
    in_turns,
    row,
    shapes,
)
from compress_exp.measurement.subject import Subject, beside, built_at, in_store, load
from compress_exp.models.families.base import family_of
from compress_exp.outputs.store import Store
from compress_exp.parallel.cores import available_cores
from compress_exp.runtimes.base import INTEGER, Call, Runtime, runtime

UNUSED_CORES = 0.8
NO_SPEEDUP = 1.1
SPARSE = 0.05


def compare(job: dict[str, Any]) -> dict[str, Any]:
    """Time, evaluate and count.

    Args:
        job: artifact, made_from, baseline, task, hardware, keys, evaluations, checks, deploy, stages, newer_than,
            lease_seconds, progress: see `measure`.
    """
    task, hardware = build(job["task"], "task"), build(job["hardware"], "hardware")
    import torch

    from compress_exp.measurement.energy import energy
    from compress_exp.measurement.quality import evaluate, quality, undefined
    from compress_exp.measurement.size import bytes_of, size

    hardware.check_host()
    torch.set_num_threads(hardware.threads)  # more of them only wait for each other in what is small
    own_path, dense_path = Path(job["artifact"]), Path(job["baseline"])
    kind = family_of(json.loads((own_path / "config.json").read_text())["model_type"]).kind
    store, checks, keys = Store(Path(job["evaluations"]), job["lease_seconds"]), Path(job["checks"]), job["keys"]
    own = load(own_path, Path(job["made_from"]), hardware, task, beside(Path(job["deploy"])))
    dense = load(dense_path, dense_path, hardware, task, in_store(store, hardware, keys["baseline"], dense_path))
    flags, asked = deploy(own, dense, kind, checks), hardware.runtime[kind]

    timings = time_shapes(own, dense, kind)
    both = [name for name in own.deployed if name in dense.deployed]
    recipe = {
        "kind": "choice",
        **keys,
        "runtimes": {name: runtime(name).version for name in dense.deployed | own.deployed},
        "cpu": cpu_identity(),
        "threads": hardware.threads,
        "shape": [timings[0]["batch"], timings[0]["length"]],
        "precision": hardware.precision,
    }
    choice = keep_choice(store, recipe, timings[0]["turns"], both, list(dense.deployed), job["newer_than"])
    rows = [row(**timing, both=both, choice=choice) for timing in timings]
    chosen = runtime(choice.artifact)

    cores = available_cores()
    torch.set_num_threads(cores)

    def evaluated(subject: Subject, key: str, where: Runtime, newer_than: float) -> Any:
        identity = {"artifact": key, "runtime": hardware.evaluation_identity(where), "task": task.evaluation_identity()}
        predictor, since = partial(subject.with_threads, where, cores), max(newer_than, built_at(subject.path))
        kept = {"kind": "evaluation", **identity}
        return evaluate(store, kept, task, predictor, subject.tokenizer, job["progress"], since)

    evaluations = (
        evaluated(own, keys["artifact"], chosen, job["newer_than"]),
        evaluated(dense, keys["baseline"], chosen, 0.0),
    )
    stages, parent = {}, dense_path
    for key, path in ((key, Path(path)) for key, path in job["stages"].items()):
        stage = load(path, parent, hardware, task, in_store(store, hardware, key, path))
        served = chosen.serves(kind, hardware.device, stage.precision) and stage.deploy(chosen, checks) is None
        stages[key] = evaluated(stage, key, chosen if served else runtime("eager"), 0.0).metrics
        parent = path
    for other in Path(job["deploy"]).glob("*"):
        if other.name != chosen.name:
            shutil.rmtree(other)
    if asked not in (AUTO, chosen.name):
        flags.append(f"runtime: {asked} was asked for, {chosen.name} is measured")
    worth = quality(task, *evaluations)
    return {
        "quality": worth,
        "stages": stages,
        "size": size(
            own_path,
            own.eager.model,
            dense_path,
            bytes_of(own.files[chosen.name], chosen.files),
            bytes_of(dense.files[chosen.name], chosen.files),
        ),
        "latency": {**rows[0], "rows": rows},
        "energy": energy(),
        "runtime": {
            **hardware.evaluation_identity(chosen),
            "name": chosen.name,
            "asked": asked,
            "baseline_name": choice.baseline,
            "threads": hardware.threads,
            **own.ran(chosen, ""),
            **dense.ran(chosen, "baseline_"),
        },
        "flags": flags + undefined(worth) + flags_of(own, dense, chosen.name, rows),
        "memory_jobs": {"artifact": own.memory_job(chosen, rows[0]), "baseline": dense.memory_job(chosen, rows[0])},
    }


def deploy(own: Subject, dense: Subject, kind: str, checks: Path) -> list[str]:
    """Put both models into every runtime of `auto`, or into the first that takes both; the one asked for comes first.

    Returns:
        A sentence for each runtime that is left out.

    Raises:
        RuntimeError: no runtime takes both.
    """
    hardware = own.hardware
    reasons: list[str] = []
    for candidate in hardware.candidates(kind):
        for subject, whose in ((dense, "the dense model in "), (own, "")):
            if candidate.serves(kind, hardware.device, subject.precision):
                reason = subject.deploy(candidate, checks)
                reasons += [] if reason is None else [whose + reason]
        if hardware.runtime[kind] != AUTO and candidate.name in own.deployed and candidate.name in dense.deployed:
            break
    if not own.deployed.keys() & dense.deployed.keys():
        raise RuntimeError("no runtime computes what the artifact says: " + "; ".join(reasons))
    return reasons


def time_shapes(own: Subject, dense: Subject, kind: str) -> list[dict[str, Any]]:
    """Time both models in every runtime that they are in, in turns, shape by shape; the headline's first."""
    hardware = own.hardware
    configs = [subject.eager.config for subject in (own, dense)]
    found = (family_of(config.model_type).positions(config) for config in configs)
    limits = [limit for limit in found if limit is not None]
    new_tokens = min([hardware.new_tokens, *(limit // 2 for limit in limits)]) if kind != "encoder" else None
    longest = min(limits) - (new_tokens or 0 if kind == "decoder" else 0) if limits else None
    subjects = (("artifact", own), ("baseline", dense))
    timed = {f"{role} {name}": (one, deployed) for role, one in subjects for name, deployed in one.deployed.items()}
    timed.setdefault(EAGER_BASELINE, (dense, dense.eager))
    timings: list[dict[str, Any]] = []
    for batch, length in shapes(hardware.batch_sizes, hardware.lengths, longest):
        calls: dict[str, Call] = {}
        for name, (subject, deployed) in timed.items():
            ids = subject.ids(batch, length)
            if new_tokens is None:
                calls[name] = deployed.forward_call(ids)
            else:
                calls[name] = deployed.generate_call(ids, new_tokens)
                calls[f"{name} prompt"] = deployed.generate_call(ids, 1)
        minimum = OTHER_ROUNDS if timings else HEADLINE_ROUNDS
        turns = in_turns(calls, max(hardware.rounds, minimum), hardware.seconds, minimum)
        timings.append({"turns": turns, "batch": batch, "length": length, "new_tokens": new_tokens})
    return timings


def keep_choice(
    store: Store, recipe: dict[str, Any], turns: Turns, own: Sequence[str], dense: Sequence[str], newer_than: float
) -> Choice:
    """The runtime that each model is fastest in: decided once for two artifacts and a host, then kept.

    Args:
        store: where evaluations are kept.
        recipe: names both artifacts, the runtimes, the host and the shape.
        turns: of the headline's shape.
        own: runtimes of the artifact, by preference.
        dense: those of the dense model.
        newer_than: decide again if it was decided before this time.
    """

    def build(directory: Path, check: Callable[[], None]) -> dict[str, Any]:
        choice = {role: fastest(turns, role, names) for role, names in (("artifact", own), ("baseline", dense))}
        (directory / "choice.json").write_text(json.dumps(choice))
        return {}

    directory = store.get(recipe, build, "choice of a runtime", newer_than)
    return Choice(**json.loads((directory / "choice.json").read_text()))


def flags_of(own: Subject, dense: Subject, chosen: str, rows: list[dict[str, Any]]) -> list[str]:
    """Short sentences about what a reader of the numbers must know."""
    from compress_exp.layers import bf16
    from compress_exp.layers.surgery import pruned_modules
    from compress_exp.measurement.size import zeros_in_matrices

    flags, hardware, headline = [], own.hardware, rows[0]
    if own.int8_layers:
        running = sum(own.deployed[chosen].executed().get(name, 0) for name in INTEGER)
        if running < (stored := len(own.int8_layers)):
            flags.append(f"integers: {running} of {stored} int8 layers run in integers in {chosen}")
        if headline["speedup_interval"][0] <= 1.0:
            reason = "" if hardware.device == "cuda" or multiplies_integers() else ", a CPU without VNNI or AMX"
            low, high = headline["speedup_interval"]
            flags.append(f"slow: int8 brings no certain speed-up in {chosen} here{reason} ({low:.2f}–{high:.2f}×)")
    for codes, stored in Counter(layer.packed for layer in own.stored_layers if layer.packed).items():
        executed = own.deployed[chosen].executed().items()
        if (running := sum(count for name, count in executed if name.endswith(f" {codes}"))) < stored:
            flags.append(f"packed: {running} of {stored} layers of {codes} codes stay packed in {chosen}")
    if own.precision == "bf16" and hardware.device == "cpu" and not bf16.kernels_available():
        flags.append("slow: this CPU has no instructions for bfloat16")
    for subject in (own, dense):
        if (used := subject.deployed[chosen].precision()) != subject.precision:
            flags.append(f"precision: {subject.precision} was asked for, the runtime uses {used}")
    added = zeros_in_matrices(own.eager.model) - zeros_in_matrices(dense.eager.model)
    made = any(pruned_modules(own.eager.model)) or not own.stored_layers  # and not by rounding to a coarse grid
    if made and added > SPARSE and headline["speedup_interval"][0] < NO_SPEEDUP:
        flags.append("zeros: no speed-up expected on this runtime")
    worst = min(rows, key=lambda row: min(row["cores"], row["baseline"]["cores"]))
    cores = min(worst["cores"], worst["baseline"]["cores"])
    if hardware.device == "cpu" and cores < UNUSED_CORES * hardware.threads:
        shape = f"{worst['batch_size']} × {worst['length']}"
        flags.append(f"cores: the timing of {shape} used {cores:.2f} cores with threads={hardware.threads}")
    return flags

"""Latency, measured in turns: every ratio is one of neighbours, so a noisy machine cannot invent a speed-up."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress_exp.runtimes.base import Call

Array = NDArray[np.float64]
SHORT = 0.05
HEADLINE_ROUNDS, OTHER_ROUNDS = 10, 5
RESAMPLES = 5000
EAGER_BASELINE = "baseline eager"


@dataclass(frozen=True)
class Turns:
    """What a timing in turns saw.

    Attributes:
        seconds: wall seconds of every round, by name.
        cores: CPU seconds over wall seconds, by name.
    """

    seconds: dict[str, Array]
    cores: dict[str, float]

    def ratio(self, slow: str, fast: str) -> tuple[float, list[float]]:
        """The median of slow/fast over the rounds and its 95 % percentile bootstrap interval."""
        ratios = self.seconds[slow] / self.seconds[fast]
        # By hand: importing scipy.stats takes longer than timing a small model.
        medians = np.median(np.random.default_rng(0).choice(ratios, size=(RESAMPLES, len(ratios))), axis=1)
        low, high = np.percentile(medians, [2.5, 97.5])
        return float(np.median(ratios)), [float(low), float(high)]


def in_turns(calls: Mapping[str, Call], rounds: int, cap: float, minimum: int) -> Turns:
    """Time calls in turns: A B C A B C …

    Args:
        calls: what is timed, by name. A short call is preceded by an untimed one of its own, so that it finds its own
            weights in the caches and not its neighbour's.
        rounds: most rounds.
        cap: seconds after which no further round starts, once there are `minimum`.
        minimum: fewest rounds.
    """
    short = {}
    for name, call in calls.items():
        call()
        started = time.perf_counter()
        call()
        short[name] = time.perf_counter() - started < SHORT
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        begin = time.perf_counter()
        for done in range(rounds):
            if done >= minimum and time.perf_counter() - begin > cap:
                break
            for name, call in calls.items():
                if short[name]:
                    call()
                cpu, wall = time.process_time(), time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - wall)
                spent[name] += time.process_time() - cpu
    finally:
        if collecting:
            gc.enable()
    arrays = {name: np.array(values) for name, values in seconds.items()}
    return Turns(arrays, {name: spent[name] / float(array.sum()) for name, array in arrays.items()})


def shapes(batch_sizes: Sequence[int], lengths: Sequence[int], longest: int | None) -> list[tuple[int, int]]:
    """(batch, length) of the rows, the headline first; lengths clipped to the longest that the models take."""
    clipped = sorted({min(length, longest or length) for length in lengths}, reverse=True)
    return [(batch, length) for length in clipped for batch in dict.fromkeys(batch_sizes)]


@dataclass(frozen=True)
class Choice:
    """The runtimes, by name, that each model is fastest in."""

    artifact: str
    baseline: str


def fastest(turns: Turns, role: str, runtimes: Sequence[str]) -> str:
    """The first of the runtimes that is not slower than the fastest beyond what noise explains.

    Args:
        turns: of names "<role> <runtime>".
        role: "artifact" or "baseline".
        runtimes: by preference.
    """
    best = min(runtimes, key=lambda name: float(np.median(turns.seconds[f"{role} {name}"])))
    even = (name for name in runtimes if turns.ratio(f"{role} {name}", f"{role} {best}")[1][0] <= 1.0)
    return next(even, best)


def row(
    turns: Turns, batch: int, length: int, both: Sequence[str], choice: Choice, new_tokens: int | None
) -> dict[str, Any]:
    """One row of the record.

    Args:
        turns: of "artifact <runtime>" and "baseline <runtime>", among them "baseline eager", and for generation the
            same with " prompt" behind.
        batch: batch size.
        length: input length.
        both: runtimes that both models were timed in.
        choice: those that they are shown in.
        new_tokens: generated tokens; None where nothing is generated.
    """
    own, dense = f"artifact {choice.artifact}", f"baseline {choice.baseline}"
    figures = {
        "batch_size": batch,
        "length": length,
        **_figures(turns, own, batch, new_tokens),
        "baseline": _figures(turns, dense, batch, new_tokens),
        "baseline_eager": _figures(turns, EAGER_BASELINE, batch, new_tokens),
        **_ratio(turns, "speedup", dense, own),
        **_ratio(turns, "speedup_same_runtime", f"baseline {choice.artifact}", own),
        **_ratio(turns, "speedup_over_eager", EAGER_BASELINE, own),
        "repeats": len(turns.seconds[own]),
    }
    figures["by_runtime"] = {
        name: {
            **_figures(turns, f"artifact {name}", batch, new_tokens),
            "baseline": _figures(turns, f"baseline {name}", batch, new_tokens),
            **_ratio(turns, "speedup", f"baseline {name}", f"artifact {name}"),
        }
        for name in both
    }
    return figures


def _ratio(turns: Turns, name: str, slow: str, fast: str) -> dict[str, Any]:
    ratio, interval = turns.ratio(slow, fast)
    return {name: ratio, f"{name}_interval": interval}


def _figures(turns: Turns, name: str, batch: int, new_tokens: int | None) -> dict[str, Any]:
    p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(turns.seconds[name], [50, 90, 99]))
    figures: dict[str, Any] = {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "throughput": batch / p50 * 1e3}
    figures["cores"] = turns.cores[name]
    if new_tokens is not None:
        prompt = float(np.median(turns.seconds[f"{name} prompt"])) * 1e3
        figures |= {"new_tokens": new_tokens, "prompt_ms": prompt}
        figures["token_ms"] = (p50 - prompt) / (new_tokens - 1) if new_tokens > 1 else None
    return figures

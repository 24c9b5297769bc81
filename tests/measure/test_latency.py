import time

import numpy as np
import pytest
from scipy.stats import bootstrap

from compress_exp.measure.latency import Turns, in_turns, row, shapes


def sleeper(seconds: float):  # type: ignore[no-untyped-def]
    return lambda: time.sleep(seconds)


def test_known_latency_and_equal_models() -> None:
    calls = {"artifact": sleeper(0.01), "baseline": sleeper(0.01), "eager": sleeper(0.03)}
    figures = row(in_turns(calls, 12, 10, 10), 4, 128, "eager", None)
    assert figures["p50_ms"] == pytest.approx(10, rel=0.1)
    assert figures["throughput"] == pytest.approx(400, rel=0.1)
    assert figures["speedup_interval"][0] <= 1.03 and figures["speedup_interval"][1] >= 0.97
    assert figures["speedup_over_eager"] == pytest.approx(3, rel=0.1)
    assert figures["repeats"] == 12 and figures["cores"] < 0.5
    assert figures["p50_ms"] <= figures["p90_ms"] <= figures["p99_ms"]


def test_interval_equals_scipy_s_bootstrap() -> None:
    generator = np.random.default_rng(1)
    slow, fast = 2 + 0.3 * generator.random(40), 1 + 0.3 * generator.random(40)
    ratio, interval = Turns({"slow": slow, "fast": fast}, {}).ratio("slow", "fast")
    expected = bootstrap((slow / fast,), np.median, n_resamples=5000, method="percentile", rng=generator)
    assert ratio == np.median(slow / fast)
    assert interval == pytest.approx(list(expected.confidence_interval), rel=0.01)


def test_turns_alternate_and_short_calls_are_warmed_by_themselves() -> None:
    order: list[str] = []
    turns = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 5, 10, 5)
    assert order == ["a", "a", "b", "b"] + ["a", "a", "b", "b"] * 5
    assert len(turns.seconds["a"]) == len(turns.seconds["b"]) == 5


def test_cap_stops_rounds_but_not_before_the_minimum() -> None:
    turns = in_turns({"a": sleeper(0.06)}, 100, 0.0, 5)
    assert len(turns.seconds["a"]) == 5


def test_busy_calls_use_a_core() -> None:
    def busy() -> None:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass

    assert 0.1 < in_turns({"a": busy}, 5, 10, 5).cores["a"] < 1.1


def test_generation_splits_prompt_and_tokens() -> None:
    calls = {name: sleeper(0.03) for name in ("artifact", "baseline")}
    calls |= {f"{name} prompt": sleeper(0.01) for name in ("artifact", "baseline")}
    figures = row(in_turns(calls, 10, 10, 10), 1, 8, "baseline", 5)
    assert figures["prompt_ms"] == pytest.approx(10, rel=0.1)
    assert figures["token_ms"] == pytest.approx(5, rel=0.2)
    assert figures["speedup_over_eager"] == figures["speedup"]


def test_shapes_put_the_headline_first_and_clip() -> None:
    assert shapes([1, 8], [32, 128], None) == [(1, 128), (8, 128), (1, 32), (8, 32)]
    assert shapes([1], [128, 96, 32], 64) == [(1, 64), (1, 32)]

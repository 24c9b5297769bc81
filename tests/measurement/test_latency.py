import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import bootstrap

from compress_exp.measurement import latency
from compress_exp.measurement.latency import Choice, Turns, fastest, in_turns, row, shapes

EAGER = Choice("eager", "eager")


class Clock:
    """Stands in for the module `time`: only its calls take time."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.order: list[str] = []

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu

    def call(self, seconds: float, cores: float = 0.0, name: str = "") -> Callable[[], None]:
        def run() -> None:
            self.wall += seconds
            self.cpu += seconds * cores
            self.order.append(name)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


def test_known_latency_and_equal_models(clock: Clock) -> None:
    calls = {
        "artifact openvino": clock.call(0.01, 0.75),
        "baseline openvino": clock.call(0.01),
        "baseline eager": clock.call(0.03),
    }
    choice = Choice("openvino", "openvino")
    figures = row(in_turns(calls, 12, 10, 10), 4, 128, ["openvino"], choice, None)
    assert figures["p50_ms"] == pytest.approx(10) and figures["throughput"] == pytest.approx(400)
    assert figures["speedup_interval"] == pytest.approx([1, 1])
    assert figures["speedup_over_eager"] == pytest.approx(3)
    assert figures["baseline_eager"]["p50_ms"] == pytest.approx(30)
    assert figures["repeats"] == 12
    assert figures["cores"] == pytest.approx(0.75) and figures["baseline"]["cores"] == 0


def test_percentiles_are_those_of_the_rounds() -> None:
    times = np.arange(1, 102) / 1e3
    names = ("artifact eager", "baseline eager")
    figures = row(Turns(dict.fromkeys(names, times), dict.fromkeys(names, 1)), 1, 8, ["eager"], EAGER, None)
    assert [figures[name] for name in ("p50_ms", "p90_ms", "p99_ms")] == pytest.approx([51, 91, 100])


def test_a_sleep_takes_its_time_and_no_core() -> None:
    turns = in_turns({"a": lambda: time.sleep(0.01)}, 5, 10, 5)
    assert turns.seconds["a"].min() >= 0.01
    assert turns.cores["a"] < 0.5


def test_interval_equals_scipy_s_bootstrap() -> None:
    generator = np.random.default_rng(1)
    slow, fast = 2 + 0.3 * generator.random(40), 1 + 0.3 * generator.random(40)
    ratio, interval = Turns({"slow": slow, "fast": fast}, {}).ratio("slow", "fast")
    expected = bootstrap((slow / fast,), np.median, n_resamples=5000, method="percentile", rng=generator)
    assert ratio == np.median(slow / fast)
    assert interval == pytest.approx(list(expected.confidence_interval), rel=0.01)


def test_turns_alternate_and_short_calls_are_warmed_by_themselves(clock: Clock) -> None:
    turns = in_turns({name: clock.call(0.01, name=name) for name in ("a", "b")}, 5, 10, 5)
    assert clock.order == ["a", "a", "b", "b"] + ["a", "a", "b", "b"] * 5
    assert len(turns.seconds["a"]) == len(turns.seconds["b"]) == 5


def test_long_calls_need_no_warming(clock: Clock) -> None:
    in_turns({name: clock.call(0.1, name=name) for name in ("a", "b")}, 5, 10, 5)
    assert clock.order == ["a", "a", "b", "b"] + ["a", "b"] * 5


def test_cap_stops_rounds_but_not_before_the_minimum(clock: Clock) -> None:
    rounds = {minimum: len(in_turns({"a": clock.call(0.3)}, 100, 1, minimum).seconds["a"]) for minimum in (2, 5)}
    assert rounds == {2: 4, 5: 5}  # the fourth ends behind the cap


def test_busy_calls_use_a_core() -> None:
    def busy() -> None:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass

    turns = in_turns({"a": busy}, 5, 10, 5)
    assert turns.cores["a"] * turns.seconds["a"].sum() >= 0.1 * 0.99


def test_generation_splits_prompt_and_tokens(clock: Clock) -> None:
    calls = {f"{name} eager": clock.call(0.03) for name in ("artifact", "baseline")}
    calls |= {f"{name} prompt": clock.call(0.01) for name in list(calls)}
    figures = row(in_turns(calls, 10, 10, 10), 1, 8, ["eager"], EAGER, 5)
    assert figures["prompt_ms"] == pytest.approx(10)
    assert figures["token_ms"] == pytest.approx(5)
    assert figures["speedup_over_eager"] == figures["speedup"]


def test_shapes_put_the_headline_first_and_clip() -> None:
    assert shapes([1, 8], [32, 128], None) == [(1, 128), (8, 128), (1, 32), (8, 32)]
    assert shapes([1], [128, 96, 32], 64) == [(1, 64), (1, 32)]


def test_each_model_is_shown_in_its_own_fastest_runtime(clock: Clock) -> None:
    seconds = {"artifact openvino": 0.04, "artifact onnxruntime": 0.02, "artifact eager": 0.05}
    seconds |= {"baseline openvino": 0.03, "baseline onnxruntime": 0.06, "baseline eager": 0.08}
    turns = in_turns({name: clock.call(value) for name, value in seconds.items()}, 10, 100, 10)
    order = ["openvino", "onnxruntime", "eager"]
    choice = Choice(fastest(turns, "artifact", order), fastest(turns, "baseline", order))
    assert choice == Choice("onnxruntime", "openvino")
    figures = row(turns, 1, 8, order, choice, None)
    assert figures["p50_ms"] == pytest.approx(20) and figures["baseline"]["p50_ms"] == pytest.approx(30)
    assert figures["speedup"] == pytest.approx(1.5) and figures["speedup_same_runtime"] == pytest.approx(3)
    assert figures["speedup_over_eager"] == pytest.approx(4)
    ratios = {name: one["speedup"] for name, one in figures["by_runtime"].items()}
    assert ratios == pytest.approx({"openvino": 0.75, "onnxruntime": 3, "eager": 1.6})
    assert figures["by_runtime"]["eager"]["baseline"]["p50_ms"] == pytest.approx(80)


def test_within_noise_the_preferred_runtime_is_taken() -> None:
    noise = np.random.default_rng(3).normal(1, 0.1, (2, 40))
    even = Turns({"artifact a": 1.01 * noise[0], "artifact b": noise[1]}, {})
    assert fastest(even, "artifact", ["a", "b"]) == "a" and fastest(even, "artifact", ["b", "a"]) == "b"
    apart = Turns({"artifact a": 1.3 * noise[0], "artifact b": noise[1]}, {})
    assert fastest(apart, "artifact", ["a", "b"]) == "b"

"""Every file in benchmarks/ runs, at the size that its `--smallest` takes, and prints finite numbers."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
LINUX = ("prune_cost",)  # it reads /proc


@functools.cache
def printed(name: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smallest"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_at_its_smallest(name):
    if name in LINUX and sys.platform != "linux":
        pytest.skip("reads /proc")
    text = printed(name)
    assert re.search(r"\d\.\d", text), text
    assert not re.search(r"\b(nan|inf)\b", text), text


def test_the_cost_of_a_step_is_told_against_the_bare_loop():
    lines = printed("training_step").splitlines()
    milliseconds = {line[:18].strip(): [float(item) for item in re.findall(r"([\d.]+) ms", line)] for line in lines[:4]}
    assert list(milliseconds) == ["bare loop", "CompressionModule", "with masks", "a cut"]
    assert all(len(pair) == 2 and min(pair) > 0 for pair in milliseconds.values())
    for line, slow, fast in zip(
        lines[4:6], ("CompressionModule", "with masks"), ("bare loop", "CompressionModule"), strict=True
    ):
        wall, cpu = (float(item) for item in re.findall(r"([\d.]+) \(from", line))
        assert wall == pytest.approx(milliseconds[slow][0] / milliseconds[fast][0], rel=0.05), line
        assert cpu == pytest.approx(milliseconds[slow][1] / milliseconds[fast][1], rel=0.05), line


def test_int8_encoders_are_timed_in_integers_where_they_should_be():
    lines = printed("int8_encoders").splitlines()
    products = next(line for line in lines if line.startswith("smallest"))
    # 8 products: 6 of the block, the pooler and the classifier, which stay float in ours.
    assert "ONNX Runtime ours {'u8': 6, 'f32': 2}" in products and "eager {'f32': 8}" in products
    head, row = lines[-2:]
    columns = ["OpenVINO f32", "OpenVINO ours", "ONNX Runtime f32", "ONNX Runtime dyn.", "ONNX Runtime ours"]
    assert all(column in head for column in columns)
    nncf = "OpenVINO NNCF" in head
    assert nncf != ("nncf is not installed: its quantization is left out" in lines)
    shape, *numbers = row.split("load")[0].split()
    assert shape == "1x8" and len(numbers) == 1 + len(columns) + nncf
    assert all(float(number) > 0 for number in numbers)

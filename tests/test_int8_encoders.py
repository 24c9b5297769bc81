"""The benchmark of int8 encoders runs, at its smallest."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_benchmark_times_every_model_in_integers_where_it_should() -> None:
    command = [sys.executable, "benchmarks/int8_encoders.py", "--smallest"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    printed = subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True).stdout
    lines = printed.splitlines()
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

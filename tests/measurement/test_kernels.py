from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress_exp.layers.int8 import Int8Linear
from compress_exp.measurement import kernels
from compress_exp.measurement.kernels import check, kept, measure_error
from compress_exp.runtimes.base import names, runtime
from compress_exp.runtimes.eager import Eager

X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="this CPU is not x86")


class Saturating(Eager):
    """u8·s8 as a CPU without VNNI does it: products are added in pairs, in 16 bits that saturate."""

    name = "saturating"

    def __init__(self) -> None:
        self.calls = 0

    def multiply(self, layer: nn.Module, inputs: Tensor) -> Tensor:
        assert isinstance(layer, Int8Linear) and layer.bias is not None
        self.calls += 1
        codes, weight = inputs.long() + int(layer.input_zero_point), layer.weight.long()
        pairs = (codes[:, None] * weight).unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1)
        product = pairs.sum(-1) - int(layer.input_zero_point) * weight.sum(1)
        return product.float() + layer.bias.detach()


def test_a_kernel_that_saturates_is_refused_and_the_safe_range_is_not() -> None:
    assert measure_error(Saturating(), 127) > 0.4
    assert measure_error(Saturating(), 63) < 1e-6


@pytest.mark.parametrize("name", names())
def test_the_default_range_is_exact_in_every_runtime_on_this_machine(name: str) -> None:
    assert measure_error(runtime(name), 63) <= kernels.TOLERANCE


def test_eager_is_exact_whatever_the_codes() -> None:
    assert measure_error(runtime("eager"), 127) <= kernels.TOLERANCE


@X86
def test_openvino_without_vnni_is_found_out() -> None:
    code = (
        "from compress_exp.runtimes.base import runtime; from compress_exp.measurement.kernels import measure_error;"
        "print([measure_error(runtime(name), limit) for name in ('openvino', 'eager') for limit in (63, 127)])"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    safe, full, eager_safe, eager_full = json.loads(done.stdout)
    assert full > 0.1 and max(safe, eager_safe, eager_full) <= kernels.TOLERANCE


def test_what_was_seen_is_kept_for_this_cpu_release_and_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Saturating()
    assert kept(one, 127, tmp_path) is None
    seen = check(one, 100, tmp_path)
    made = one.calls
    assert not seen.exact and seen.largest == 127
    assert check(one, 127, tmp_path) == seen == kept(one, 127, tmp_path) and one.calls == made
    assert check(one, 63, tmp_path).exact and one.calls == 2 * made
    assert str(seen).startswith("saturating: left out, its int8 kernels are wrong by ")
    monkeypatch.setattr(kernels, "cpu_identity", lambda: {"flags": []})
    assert kept(one, 127, tmp_path) is None
    next(tmp_path.glob("*-127-*")).write_text("{}")
    monkeypatch.undo()
    assert check(one, 127, tmp_path) == seen


def test_values_that_are_not_finite_are_no_product() -> None:
    class Broken(Saturating):
        def multiply(self, layer: nn.Module, inputs: Tensor) -> Tensor:
            return super().multiply(layer, inputs) * torch.nan

    assert measure_error(Broken(), 63) == float("inf")

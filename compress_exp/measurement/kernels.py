"""Whether a runtime multiplies integers exactly on this CPU: one-layer graphs against integer arithmetic, by value.

A runtime's own word does not tell: where a CPU lacks VNNI, kernels of u8·s8 products saturate and still say "u8".
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from compress_exp.measurement.cpu import cpu_identity
from compress_exp.outputs.files import digest, write_json
from compress_exp.runtimes.base import Runtime

log = logging.getLogger("compress_exp")

WIDTHS = (64, 768, 3072)
OUTPUTS, ROWS = 48, 12
TOLERANCE = 1e-5
LIMITS = (63, 127)


@dataclass(frozen=True)
class Kernels:
    """What was seen of a runtime's integer kernels.

    Attributes:
        runtime: its name.
        largest: codes of weights up to this magnitude were multiplied.
        error: the largest error over the largest product.
    """

    runtime: str
    largest: int
    error: float

    @property
    def exact(self) -> bool:
        """Whether nothing but float rounding separates the kernels from integer arithmetic."""
        return self.error <= TOLERANCE

    def __str__(self) -> str:
        return (
            f"{self.runtime}: left out, its int8 kernels are wrong by {self.error:.1%} on this CPU "
            f"(weight codes up to {self.largest})"
        )


def limit_of(largest: int) -> int:
    """The range that is checked for codes up to `largest`."""
    return next(limit for limit in LIMITS if largest <= limit)


def measure_error(runtime: Runtime, largest: int) -> float:
    """The largest error of a runtime's int8 layers, relative to the largest product.

    Inputs of 64, 768 and 3,072 codes, random ones and all at either end, meet weights of random codes and of codes at
    either end; zero points at 0 and in the middle.
    """
    import torch
    from torch import nn

    from compress_exp.layers.int8 import HIGH, Int8Linear

    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for width in WIDTHS:
        for zero_point in (0, 128):
            layer = Int8Linear(width, OUTPUTS)
            codes = torch.randint(-largest, largest + 1, (OUTPUTS, width), generator=generator)
            codes[0], codes[1] = largest, -largest
            layer.weight = codes.to(torch.int8)
            layer.input_zero_point = torch.tensor(zero_point, dtype=torch.int32)
            layer.bias = nn.Parameter(torch.arange(OUTPUTS).float())
            inputs = torch.randint(0, HIGH + 1, (ROWS, width), generator=generator)
            inputs[0], inputs[1], inputs[2, ::2] = HIGH, 0, HIGH
            right = (inputs - zero_point) @ codes.T + torch.arange(OUTPUTS)  # int64
            got = runtime.multiply(layer.eval(), (inputs - zero_point).float())
            error = (got.double() - right.double()).abs().max() / right.abs().max()
            worst = max(worst, float(error.nan_to_num(nan=float("inf"))))
    return worst


def kept(runtime: Runtime, largest: int, checks: Path) -> Kernels | None:
    """What an earlier check on such a CPU saw; None where there was none.

    Args:
        runtime: whose kernels are asked about.
        largest: the largest code of the weights.
        checks: the directory of kept checks.
    """
    try:
        return Kernels(**json.loads(_file(runtime, limit_of(largest), checks).read_text())["kernels"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check(runtime: Runtime, largest: int, checks: Path) -> Kernels:
    """Check a runtime's kernels, once for each release, CPU and range of codes."""
    limit = limit_of(largest)
    if (seen := kept(runtime, limit, checks)) is None:
        seen = Kernels(runtime.name, limit, measure_error(runtime, limit))
        checks.mkdir(parents=True, exist_ok=True)
        content = {"kernels": seen.__dict__, "version": runtime.version, "cpu": cpu_identity()}
        write_json(_file(runtime, limit, checks), content)
    return seen


def _file(runtime: Runtime, limit: int, checks: Path) -> Path:
    content = {"runtime": runtime.name, "version": runtime.version, "cpu": cpu_identity(), "largest": limit}
    return checks / f"kernels-{runtime.name}-{limit}-{digest(content)}.json"

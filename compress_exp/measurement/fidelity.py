"""Whether a deployed graph says what its artifact says: outputs on calibration rows, in the runtime and in PyTorch.

An artifact's own outputs are those of its reference arithmetic, integers unpacked to floats. A runtime rounds in other
places, so an int8 graph may differ by a share of what quantization itself changed: the artifact's distance from its
parent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compress_exp.tasks.base import Task

    Outputs = Callable[[dict[str, Tensor]], dict[str, Tensor]]

ROWS, BATCH, DRAWN = 64, 8, 128
FEW = 3  # OpenVINO 2026.4 has kernels of their own for up to four
# Seen: float32 4e-7 in both runtimes (MiniLM); bfloat16, whose rounding unit is 2⁻⁸ = 0.004, 0.003–0.004 in OpenVINO
# (MiniLM and small encoders), one to two times as far as its weights are from float32.
ROUNDING = {"f32": 1e-4, "bf16": 0.02}
# Exact runtimes differ by up to 0.34 of the distance (MiniLM calibrated: OpenVINO 0.15–0.34, ONNX Runtime 0.03–0.26,
# PyTorch's kernels 0.00–0.26; small GPT-2 0.05, T5 0.10, BART 0.18), OpenVINO where it saturates by 0.74–0.78.
SHARE = 0.5
UNKNOWN_DISTANCE = 0.1


@dataclass(frozen=True)
class Fidelity:
    """How far a deployed graph is from its artifact.

    Attributes:
        runtime: its name.
        error: ‖deployed − own‖ / ‖own‖ over all outputs for the calibration rows.
        allowed: the largest error that is accepted.
    """

    runtime: str
    error: float
    allowed: float

    @property
    def faithful(self) -> bool:
        """Whether the graph may be measured."""
        return self.error <= self.allowed

    def __str__(self) -> str:
        return (
            f"{self.runtime}: left out, its outputs differ by {self.error:.2g} from the artifact's own "
            f"({self.allowed:.2g} is allowed)"
        )


def check(
    runtime: str,
    deployed: Outputs,
    own: Outputs,
    batches: list[dict[str, Tensor]],
    distance: float | None,
    precision: str = "f32",
) -> Fidelity:
    """Compare a deployed graph with its artifact.

    Args:
        runtime: the runtime's name.
        deployed: outputs by name for a batch there.
        own: those that count, by the artifact's reference arithmetic.
        batches: calibration rows, collated.
        distance: of the artifact from its parent, where it multiplies integers; None where it does not.
        precision: of its floating values, f32 or bf16.
    """
    allowed = max(ROUNDING[precision], SHARE * (distance or 0.0))
    looked = [*batches, *map(_short, batches[:1])]
    return Fidelity(runtime, difference(deployed, own, looked, looked), allowed)


def _short(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """One row of few tokens: runtimes multiply few rows by other kernels than many."""
    return {name: part[:1, :FEW] if part.dim() > 1 else part[:1] for name, part in batch.items()}


def distance_from_parent(
    own: Outputs, batches: list[dict[str, Tensor]], parent: Outputs, parent_batches: list[dict[str, Tensor]]
) -> float:
    """‖own − parent‖ / ‖parent‖ of an artifact; a typical one of int8 where their outputs cannot be compared."""
    found = difference(own, parent, batches, parent_batches)
    return found if math.isfinite(found) else UNKNOWN_DISTANCE


def difference(
    one: Outputs, other: Outputs, batches: list[dict[str, Tensor]], other_batches: list[dict[str, Tensor]]
) -> float:
    """‖one − other‖ / ‖other‖ over all outputs of the other and what is text.

    Infinite where shapes differ or a value is not finite.
    """
    apart = size = 0.0
    if len(batches) != len(other_batches):  # other tokens, other windows
        return math.inf
    for batch, other_batch in zip(batches, other_batches, strict=True):
        given, wanted = one(batch), other(other_batch)
        for name in wanted:
            left, right = _counted(given[name], batch), _counted(wanted[name], other_batch)
            if left.shape != right.shape:
                return math.inf
            apart += float((left - right).double().square().sum())
            size += float(right.double().square().sum())
    if not math.isfinite(apart) or not math.isfinite(size):
        return math.inf
    return math.sqrt(apart / size) if size else math.sqrt(apart)


def _counted(
    output: Tensor,  # (batch, classes), (batch, length) or (batch, length, vocabulary)
    batch: dict[str, Tensor],
) -> Tensor:  # (batch, classes), (positions,) or (positions, vocabulary)
    from compress_exp.models.forward import LABELS

    for name, labels in batch.items():
        if name.startswith(LABELS) and labels.shape == output.shape[:2]:
            return output[labels >= 0]
    return output if output.dim() == 2 else output[batch["attention_mask"].bool()]


def reference(model: PreTrainedModel, task: Task, what: str) -> Outputs:
    """A model's outputs by the reference arithmetic of its layers.

    Args:
        model: in evaluation mode.
        task: says which outputs count.
        what: is refused, by name, where an output is not finite.
    """
    import torch

    from compress_exp.models.finite import finite_outputs
    from compress_exp.models.forward import forward_outputs

    device = next(model.parameters()).device

    def outputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.enable_grad():  # integer layers take their kernels only where no gradient is wanted
            found = forward_outputs(model, inputs, task.outputs)
        return {name: finite_outputs(tensor.detach().float().cpu(), what) for name, tensor in found.items()}

    return outputs


def calibration(task: Task, tokenizer: PreTrainedTokenizerBase, config: Any) -> list[dict[str, Tensor]]:
    """At most 64 seeded training rows in batches of 8, in the order of the data."""
    drawn = replace(task, train_fraction=task.train_fraction * min(1.0, DRAWN / len(task.rows("train"))))
    features = drawn.features("train", tokenizer, config)[:ROWS]
    return [task.collate(features[start : start + BATCH], tokenizer) for start in range(0, len(features), BATCH)]


def of_artifact(path: Path, task: Task) -> tuple[Outputs, list[dict[str, Tensor]]]:
    """An artifact's outputs and the calibration rows as it reads them."""
    from transformers import AutoTokenizer

    from compress_exp.formats.artifact import load

    model, tokenizer = load(path), AutoTokenizer.from_pretrained(path)
    return reference(model, task, f"artifact {path.name}"), calibration(task, tokenizer, model.config)

"""Size: bytes of real files, and weights counted on the loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensor

from compress_exp.layers.stored import Stored

WEIGHTS = ("model.safetensors", "config.json", "generation_config.json")
TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model", "*.jinja")


def bytes_of(directory: Path, patterns: tuple[str, ...]) -> int:
    """The bytes of the files of a directory that match any of the patterns."""
    files = {path for pattern in patterns for path in directory.glob(pattern)}
    return sum(path.stat().st_size for path in files)


def weights(model: nn.Module) -> Iterator[Tensor]:
    """Every logical weight tensor once: parameters, and the matrices that packed modules stand for."""
    seen: set[tuple[int, ...]] = set()
    for stored in model.parameters():
        tensor = stored.to_dense() if isinstance(stored, SparseSemiStructuredTensor) else stored
        place: tuple[int, ...] = (tensor.data_ptr(), tensor.numel())
        if place not in seen:
            seen.add(place)
            yield tensor
    for module in model.modules():
        if isinstance(module, Stored) and not module.parts:
            place = tuple(getattr(module, part).data_ptr() for part in module.shared)
            if not place or place not in seen:
                seen.add(place)
                yield module.dense()


def zeros_in_matrices(model: nn.Module) -> float:
    """The share of zeros in the weights of two dimensions or more."""
    matrices = [tensor for tensor in weights(model) if tensor.dim() > 1]
    total = sum(tensor.numel() for tensor in matrices)
    return 1 - sum(int(tensor.count_nonzero()) for tensor in matrices) / total if total else 0.0


def size(artifact: Path, model: nn.Module, baseline: Path, deployed: int, baseline_deployed: int) -> dict[str, Any]:
    """The size block of the record.

    Args:
        artifact: its directory.
        model: the loaded artifact.
        baseline: the directory of the dense model.
        deployed: bytes of the files that the runtime loads.
        baseline_deployed: the same of the dense model.
    """
    counts = [(tensor.numel(), int(tensor.count_nonzero())) for tensor in weights(model)]
    parameters, nonzero = map(sum, zip(*counts, strict=True))
    own, dense = bytes_of(artifact, WEIGHTS), bytes_of(baseline, WEIGHTS)
    return {
        "artifact_bytes": own,
        "baseline_artifact_bytes": dense,
        "tokenizer_bytes": bytes_of(artifact, TOKENIZER),
        "deployed_bytes": deployed,
        "baseline_deployed_bytes": baseline_deployed,
        "compression_ratio": dense / own,
        "parameters": parameters,
        "nonzero_parameters": nonzero,
        "sparsity": 1 - nonzero / parameters,
        "bits_per_weight": 8 * bytes_of(artifact, WEIGHTS[:1]) / parameters,
    }

from pathlib import Path

import pytest
import torch
from torch import nn

from compress_exp.layers.int8 import Int8Embedding, Int8Linear
from compress_exp.measurement.size import TOKENIZER, bytes_of, size, weights, zeros_in_matrices


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.dense = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.words.weight


def test_dense_weights_are_counted_once() -> None:
    model = Tied()
    with torch.no_grad():
        model.dense.weight[:2] = 0
    assert sum(tensor.numel() for tensor in weights(model)) == 40 + 16 + 4
    assert zeros_in_matrices(model) == pytest.approx(8 / 56)


def test_int8_weights_count_and_scales_do_not() -> None:
    model = Tied()
    ones = torch.ones(4)
    model.dense = Int8Linear.from_float(model.dense.weight, model.dense.bias, ones / 100, torch.tensor(1.0), ones[0])  # type: ignore[assignment]
    model.words = Int8Embedding.from_float(model.words.weight, torch.ones(10) / 100)  # type: ignore[assignment]
    model.head = Int8Linear(4, 10, bias=False)  # type: ignore[assignment]
    model.head.weight, model.head.weight_scale = model.words.weight, model.words.weight_scale  # type: ignore[assignment]
    assert sum(tensor.numel() for tensor in weights(model)) == 40 + 16 + 4


def test_bytes_and_ratios(tmp_path: Path) -> None:
    for name, scale in (("own", 1), ("dense", 4)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * 100 * scale)
        (tmp_path / name / "config.json").write_bytes(b"x" * 20 * scale)
        (tmp_path / name / "tokenizer.json").write_bytes(b"x" * 7)
        (tmp_path / name / "history.csv").write_bytes(b"x" * 1000)
    block = size(tmp_path / "own", nn.Linear(5, 2, bias=False), tmp_path / "dense", 50, 200)
    assert block["artifact_bytes"] == 120 and block["baseline_artifact_bytes"] == 480
    assert block["compression_ratio"] == 4 and block["tokenizer_bytes"] == 7
    assert block["deployed_bytes"] == 50 and block["baseline_deployed_bytes"] == 200
    assert block["parameters"] == 10 and block["bits_per_weight"] == 80
    assert bytes_of(tmp_path / "own", TOKENIZER) == 7

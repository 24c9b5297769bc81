import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress_exp.measurement.measure import run_child
from compress_exp.measurement.memory import peak_rss
from compress_exp.runtimes.openvino import package


def save(rows: int, directory: Path) -> dict[str, Any]:
    """An embedding of rows × 1000 in OpenVINO, and the job that measures it."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(rows, 1000)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.words(ids) * mask.unsqueeze(-1)

    openvino = package()
    ids = torch.ones(1, 4, dtype=torch.int64)
    graph = openvino.convert_model(Words(), example_input=(ids, ids))
    for port, name in zip(graph.inputs, ("input_ids", "attention_mask"), strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(graph, directory / "model.xml", compress_to_fp16=False)
    job = {"what": "memory", "directory": str(directory), "runtime": "openvino", "device": "cpu", "precision": "f32"}
    return job | {"threads": 1, "vocabulary": 1000, "special": [0], "batch": 1, "length": 4, "new_tokens": None}


def test_peak_is_the_child_s_own_and_grows_with_the_model(tmp_path: Path) -> None:
    large = bytearray(200_000_000)
    large[::4096] = b"\1" * len(range(0, len(large), 4096))  # every page is there
    peaks = []
    for rows in (1000, 20_000):
        directory = tmp_path / str(rows)
        directory.mkdir()
        answer = run_child(save(rows, directory), 1)
        assert answer["device_bytes"] is None
        peaks.append(answer["peak_rss_bytes"])
    assert peak_rss() > len(large) > peaks[0]
    assert peaks[1] - peaks[0] == pytest.approx(19_000 * 1000 * 4, rel=0.25)


def test_openvino_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import json, sys; from compress_exp.measurement.memory import peak; print(peak(json.loads(sys.argv[1])));"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    job = json.dumps(save(1000, tmp_path))
    subprocess.run([sys.executable, "-c", code, job], check=True, capture_output=True)

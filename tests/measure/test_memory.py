import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from compress_exp.export.openvino import runtime
from compress_exp.measure.measure import run_child


def test_peak_is_the_child_s_own_and_openvino_needs_no_torch(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(1000, 1000)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.words(ids) * mask.unsqueeze(-1)

    openvino = runtime()
    ids = torch.ones(1, 4, dtype=torch.int64)
    graph = openvino.convert_model(Words(), example_input=(ids, ids))
    for port, name in zip(graph.inputs, ("input_ids", "attention_mask"), strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(graph, tmp_path / "model.xml", compress_to_fp16=False)
    job = {"what": "memory", "directory": str(tmp_path), "runtime": "openvino", "device": "cpu", "precision": "f32"}
    job |= {"threads": 1, "vocabulary": 1000, "special": [0], "batch": 1, "length": 4, "new_tokens": None}
    large = bytearray(os.urandom(1) * 600_000_000)
    answer = run_child(job, 1)
    assert 4_000_000 < answer["peak_rss_bytes"] < 300_000_000 < len(large) and answer["device_bytes"] is None
    code = (
        "import json, sys; from compress_exp.measure.memory import peak; print(peak(json.loads(sys.argv[1])));"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(job)], check=True, capture_output=True)

from __future__ import annotations

import pytest
import torch
from torch.sparse import SparseSemiStructuredTensor
from transformers import BertConfig, BertForSequenceClassification

from compress_exp.layers.semi_structured import (
    HALF,
    is_two_of_four,
    kernels_available,
    use_sparse_kernels,
)
from compress_exp.layers.surgery import mark_pruned
from compress_exp.measurement.size import zeros_in_matrices
from compress_exp.methods.prune.n_m import n_m_mask
from compress_exp.runtimes.eager import EagerPredictor


def two_of_four(rows=64, columns=128, dtype=torch.bfloat16, n=2):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    return (weight * n_m_mask(weight.abs(), torch.ones_like(weight, dtype=torch.bool), n, 4)).to(dtype)


def test_what_the_kernels_take():
    for dtype in HALF:
        assert is_two_of_four(two_of_four(dtype=dtype))
    assert is_two_of_four(two_of_four(n=1))
    assert not is_two_of_four(two_of_four(n=3))
    assert not is_two_of_four(two_of_four(dtype=torch.float32))
    assert not is_two_of_four(two_of_four(rows=32))
    assert not is_two_of_four(two_of_four(columns=32))
    late = two_of_four()
    late[-1, -4:] = 1.0
    assert not is_two_of_four(late)


def test_on_a_cpu_nothing_changes():
    model = BertForSequenceClassification(BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2))
    assert EagerPredictor(model.eval()).executed() == {"f32": 8}


@pytest.mark.skipif(not kernels_available(), reason="there is no GPU with 2:4 kernels (compute capability 8) here")
def test_on_a_gpu_pruned_weights_run_on_sparse_tensor_cores_and_say_the_same():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=99, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )
    model = BertForSequenceClassification(config).eval()
    inside = [
        module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and ".layer." in name
    ]
    for module in inside:
        mask = n_m_mask(module.weight.abs(), torch.ones_like(module.weight, dtype=torch.bool), 2, 4)
        module.weight.data *= mask
        mark_pruned(module)
    model = model.to("cuda", torch.bfloat16)
    batch = {"input_ids": torch.arange(5, 53).view(2, 24)}
    zeros = zeros_in_matrices(model)
    with torch.inference_mode():
        dense = model(batch["input_ids"].cuda()).logits.float().cpu()
    predictor = EagerPredictor(model, "cuda")
    assert all(isinstance(module.weight, SparseSemiStructuredTensor) for module in inside)
    assert predictor.executed() == {"bf16": 2, "bf16 2:4": 12}
    torch.testing.assert_close(predictor.outputs(batch)["logits"], dense, rtol=0.02, atol=0.02)
    assert zeros_in_matrices(model) == pytest.approx(zeros)
    assert use_sparse_kernels(model) == 0

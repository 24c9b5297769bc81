from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PreTrainedTokenizerFast

from compress_exp.formats import artifact
from compress_exp.layers.blocks import with_layers
from compress_exp.layers.heads import attentions
from compress_exp.layers.low_rank import LowRank
from compress_exp.layers.neurons import feed_forwards
from compress_exp.measurement.size import weights
from compress_exp.methods.factorize.svd import SVD
from compress_exp.methods.quant.int8 import Int8
from compress_exp.models.families.base import family_of
from tests.forward import forward_logits
from tests.moments import at
from tests.slimming import build, masked_logits, shrink, some


@pytest.fixture
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))


@pytest.fixture
def factored(context, no_budget):
    return lambda family: SVD(name="factorize/svd", train=no_budget, share=0.5).prepare(build(family), context(family))


def test_it_is_two_layers_one_after_the_other():
    plain = nn.Linear(6, 4)
    layer = LowRank.build(plain, {"rank": 2})
    with torch.no_grad():
        layer.first.weight.copy_(torch.randn(2, 6))
        layer.second.weight.copy_(torch.randn(4, 2))
        inputs = torch.randn(3, 5, 6)
        assert torch.allclose(layer(inputs), inputs @ layer.dense().T + plain.bias, atol=1e-6)
    assert (layer.in_features, layer.out_features) == (6, 4) and layer.weight.shape == (0,)
    for rank in (0, None, 2.0):
        with pytest.raises(ValueError, match="no factors of rank"):
            LowRank.build(plain, {"rank": rank})
    with pytest.raises(ValueError, match="is LayerNorm and no Linear"):
        LowRank.build(nn.LayerNorm(4), {"rank": 2})


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
def test_it_comes_back_and_counts_as_its_factors(family, factored, batch, tmp_path, tokenizer):
    model = factored(family).eval()
    artifact.save(model, tokenizer, tmp_path)
    loaded = artifact.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(forward_logits(loaded, batch), forward_logits(model, batch))
    assert sum(tensor.numel() for tensor in weights(loaded)) == loaded.num_parameters() < build(family).num_parameters()


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_both_factors_are_quantized_and_come_back(family, factored, batch, context, no_budget, tmp_path, tokenizer):
    method = Int8(name="quant/static", train=no_budget, calibration=2)
    model = method.prepare(factored(family), context(family)).eval()
    method.step(at(model))
    with torch.no_grad():
        expected = forward_logits(model, batch)
    packed = method.convert(at(model))
    found = [module for module in packed.modules() if isinstance(module, LowRank)]
    assert found and all(type(part).__name__ == "Int8Linear" for module in found for part in module.children())
    artifact.save(packed, tokenizer, tmp_path)
    loaded = artifact.load(tmp_path)
    with torch.enable_grad():  # the reference in floats
        assert torch.allclose(forward_logits(packed, batch), expected, atol=1e-4)
        assert torch.equal(forward_logits(loaded, batch), forward_logits(packed, batch))


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
def test_heads_and_neurons_go_from_the_factors(family, factored, batch):
    model = factored(family).eval()
    kind = family_of(family)
    for find in (attentions, feed_forwards):
        expected = masked_logits(model, batch, some(find(model, kind)))
        before = model.num_parameters()
        shrink(model, some(find(model, kind)))
        with torch.no_grad():
            assert torch.allclose(forward_logits(model, batch), expected, atol=1e-5)
        assert model.num_parameters() < before


def test_layers_are_copied_with_their_factors(factored, batch):
    model = factored("bert").eval()
    copied = with_layers(model, family_of("bert"), {"encoder": range(4)}).eval()
    with torch.no_grad():
        assert torch.equal(forward_logits(copied, batch), forward_logits(model, batch))

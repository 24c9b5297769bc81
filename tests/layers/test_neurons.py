from __future__ import annotations

import pytest
import torch

from compress_exp.layers.neurons import feed_forwards
from compress_exp.layers.slices import keep_inputs, keep_outputs
from compress_exp.models.families.base import family_of, is_conv1d
from tests.forward import forward_logits
from tests.slimming import FAMILIES, build, family_name, masked_logits, shrink, some


def parts_of(name):
    model = build(name)
    return model, feed_forwards(model, family_of(family_name(name)))


@pytest.mark.parametrize("name", FAMILIES)
def test_removed_neurons_leave_what_zeroed_neurons_leave(name, batch):
    model, parts = parts_of(name)
    kept = some(parts)
    expected = masked_logits(model, batch, kept)
    shrink(model, kept)
    with torch.no_grad():
        assert torch.allclose(forward_logits(model, batch), expected, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_permuted_neurons_leave_the_logits(name, batch):
    model, parts = parts_of(name)
    with torch.no_grad():
        expected = forward_logits(model, batch)
        for part in parts:
            part.keep(model, torch.randperm(part.count, generator=torch.Generator().manual_seed(3)).tolist())
        assert torch.allclose(forward_logits(model, batch), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_neurons_that_are_always_zero_go_without_a_difference(name, batch):
    model, parts = parts_of(name)
    dead = list(range(8, 24))
    with torch.no_grad():
        for part in parts:
            for module in part.inputs:
                (module.weight.T if is_conv1d(module) else module.weight)[dead] = 0
                if getattr(module, "bias", None) is not None:
                    module.bias[dead] = 0
        expected = forward_logits(model, batch)
        for part in parts:
            part.keep(model, [index for index in range(part.count) if index not in dead])
        assert torch.allclose(forward_logits(model, batch), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("name", "each"), [("bert", 65), ("gpt2", 65), ("bart", 65), ("t5", 64), ("t5_gated", 96)])
def test_a_neuron_takes_its_row_its_bias_and_its_column(name, each):
    model, parts = parts_of(name)
    before = model.num_parameters()
    assert parts[0].costs()[:, 0].tolist() == [each] * 64
    parts[0].keep(model, range(40))
    assert before - model.num_parameters() == 24 * each


def test_channels_are_kept_in_the_order_given():
    linear = torch.nn.Linear(3, 4)
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    keep_outputs(linear, torch.tensor([2, 0]))
    keep_inputs(linear, torch.tensor([1]))
    assert torch.equal(linear.weight, weight[[2, 0]][:, [1]])
    assert torch.equal(linear.bias, bias[[2, 0]])
    assert (linear.in_features, linear.out_features) == (1, 2)

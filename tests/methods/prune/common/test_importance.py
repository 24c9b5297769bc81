from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from compress_exp.layers.heads import attentions
from compress_exp.layers.neurons import feed_forwards
from compress_exp.methods.prune.common.importance import (
    block_influence,
    gate_gradients,
    influences,
    normalised,
    weight_norms,
)
from compress_exp.models.families.base import family_of, is_conv1d
from tests.conftest import ARCHITECTURES
from tests.forward import forward_logits
from tests.slimming import FAMILIES, build, family_name


def row_task(name):
    """Classification, or every position of a row."""
    if family_of(family_name(name)).kind != "encoder":
        return SimpleNamespace(outputs=("logits",), targets=_every_position)
    return SimpleNamespace(
        outputs=("logits",), targets=lambda outputs, batch: (outputs["logits"], batch["labels"][:, 0] % 2)
    )


def _every_position(outputs, batch):
    scored = batch["labels"] != -100
    return outputs["logits"][scored], batch["labels"][scored]


def keep(hidden, place):
    hidden.retain_grad()
    place.append(hidden)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("find", [attentions, feed_forwards])
def test_gradients_of_gates_equal_products_of_activations_and_their_gradients(name, find, batch, context):
    model, family = build(name), family_of(family_name(name))
    parts, task = find(model, family), row_task(name)
    made = replace(context(family_name(name)), task=task, calibration=lambda count: [batch])
    found = gate_gradients(model, parts, made, 1)
    expected = [torch.zeros(part.count, dtype=torch.float64) for part in parts]
    for row in range(3):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        seen = {index: [] for index in range(len(parts))}

        handles = [
            part.output.register_forward_hook(lambda m, inputs, out, place=seen[index]: keep(inputs[0], place))
            for index, part in enumerate(parts)
        ]
        logits, labels = task.targets({"logits": forward_logits(model, one)}, one)
        functional.cross_entropy(logits, labels, reduction="sum").backward()
        for handle in handles:
            handle.remove()
        for index, part in enumerate(parts):
            product = sum((hidden.detach() * hidden.grad).double().sum((0, 1)) for hidden in seen[index])
            expected[index] += product.view(part.count, -1).sum(1).abs() / 3
    for own, wanted in zip(found, expected, strict=True):
        assert torch.allclose(own, wanted, atol=1e-5 * float(wanted.max().detach()), rtol=1e-4)
        assert float(wanted.max()) > 0
    assert not any(part.output._forward_pre_hooks for part in parts)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_importances_are_means_over_rows_however_they_are_batched(name, batch, context):
    model, family = build(name), family_of(name)
    made = replace(context(name), task=row_task(name))
    if name == "gpt2":
        batch["labels"][1, 3:] = -100
    first = {key: value[:2] for key, value in batch.items()}
    second = {key: value[2:] for key, value in batch.items()}
    parts = attentions(model, family)
    whole = gate_gradients(model, parts, replace(made, calibration=lambda count: [batch]), 1)
    pieces = gate_gradients(model, parts, replace(made, calibration=lambda count: [first, second]), 2)
    for one, other in zip(whole, pieces, strict=True):
        assert torch.allclose(one, other, rtol=1e-4)


def test_normalised_scores_have_norm_one_and_zeros_stay():
    one, zero = normalised([torch.tensor([3.0, 4.0]), torch.zeros(2)])
    assert one.tolist() == pytest.approx([0.6, 0.8])
    assert zero.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5_gated"])
def test_weight_norms_are_products_of_rows_and_columns(name):
    part = feed_forwards(build(name), family_of(family_name(name)))[1]
    matrices = [m.weight.T if is_conv1d(m) else m.weight for m in (*part.inputs, part.output)]
    expected = matrices[-1][:, 5].norm() * torch.stack([matrix[5].norm() for matrix in matrices[:-1]]).prod()
    assert float(weight_norms(part)[5]) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_block_influence_of_identity_and_scaling_is_zero_and_of_a_reversal_two():
    hidden = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    for after, expected in ((hidden, 0.0), (3.5 * hidden, 0.0), (-hidden, 2.0)):
        assert torch.allclose(block_influence(hidden, after), torch.full((7,), expected, dtype=torch.float64))
    other = torch.randn(7, 16, generator=torch.Generator().manual_seed(1))
    assert bool(((block_influence(hidden, other) >= 0) & (block_influence(hidden, other) <= 2)).all())


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "albert"])
def test_influences_are_those_of_the_hidden_states_without_padding(name, batch, context):
    model, family = build(name), family_of(name)
    mask = torch.ones_like(batch["input_ids"])
    mask[1, 6:] = 0
    padded = dict(batch, attention_mask=mask, labels=batch["labels"].masked_fill(mask == 0, -100))
    found = influences(model, family, replace(context(name), calibration=lambda count: [padded]), 1)
    inputs = {key: value for key, value in padded.items() if key != "labels"}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(padded["labels"])
    with torch.no_grad():
        answer = model(**inputs, output_hidden_states=True)
    states = answer.encoder_hidden_states if model.config.is_encoder_decoder else answer.hidden_states
    first = found[family.stacks[0].name]
    # The last hidden state of T5 and GPT-2 has passed the final norm.
    for layer, (before, after) in enumerate(zip(states[:-2], states[1:-1], strict=True)):
        cosine = functional.cosine_similarity(before, after, dim=-1)[mask.bool()]
        assert first[layer] == pytest.approx(float(1 - cosine.double().mean()), abs=1e-5)
    assert [len(values) for values in found.values()] == [4] if len(family.stacks) == 1 else [2, 2]


def test_a_block_that_does_nothing_has_no_influence(batch, context):
    model, family = build("gpt2"), family_of("gpt2")
    block = model.transformer.h[2]
    for projection in (block.attn.c_proj, block.mlp.c_proj):
        projection.weight.data.zero_()
        projection.bias.data.zero_()
    found = influences(model, family, context("gpt2"), 1)["decoder"]
    assert found[2] == pytest.approx(0, abs=1e-6)
    assert min(found[:2] + found[3:]) > 1e-3

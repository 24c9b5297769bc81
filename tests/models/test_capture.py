"""What is captured is what attention computes, and nothing of the capture is left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.utils import parametrize

from compress_exp.config.checks import UserError
from compress_exp.models.capture import capture
from compress_exp.models.families.base import attention_modules, family_of, model_types
from compress_exp.models.forward import forward_outputs
from tests.conftest import ARCHITECTURES
from tests.forward import forward_logits

FAMILIES = sorted(ARCHITECTURES)
# Another order of float32 sums than SDPA's fused kernel, through a few layers; outputs are of size 0.1 to 10.
TOLERANCE = 1e-5


@pytest.fixture
def padded(batch):
    batch["attention_mask"][0, 6:] = 0
    batch["labels"] = batch["labels"].clone()
    batch["labels"][1, 5:] = -100
    return batch


def outputs_of(model, family, batch, *extra):
    return forward_outputs(model, batch, {"logits", *family.captures, *extra})


def test_every_family_is_captured_here() -> None:
    assert set(FAMILIES) | {"xlm-roberta"} == set(model_types())


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_without_capture(tiny, padded, name) -> None:
    model, family = tiny(name), family_of(name)
    with torch.no_grad():
        expected = forward_logits(model, padded)
        found = outputs_of(model, family, padded)
        last = padded["attention_mask"].bool() if expected.dim() == 3 and family.kind == "decoder" else ...
        assert torch.allclose(found["logits"][last], expected[last], atol=TOLERANCE, rtol=TOLERANCE)
        assert torch.equal(forward_logits(model, padded), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_probabilities_and_hidden_states_are_those_that_transformers_gives(tiny, padded, name) -> None:
    model, family = tiny(name), family_of(name)
    with torch.no_grad():
        found = outputs_of(model, family, padded)
        model.set_attn_implementation("eager")
        inputs = {key: padded[key] for key in ("input_ids", "attention_mask")}
        if len(family.stacks) > 1:
            inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(padded["labels"])
        theirs = model(**inputs, output_attentions=True, output_hidden_states=True)
    places = {
        ("attention_probs", family.stacks[0].name): "attentions",
        ("hidden", family.stacks[0].name): "hidden_states",
    }
    if len(family.stacks) > 1:
        places = {("attention_probs", stack): f"{stack}_attentions" for stack in ("encoder", "decoder")}
        places |= {("hidden", stack): f"{stack}_hidden_states" for stack in ("encoder", "decoder")}
        places["cross.attention_probs", "decoder"] = "cross_attentions"
    for (what, stack), attribute in places.items():
        own, expected = found[what][stack], getattr(theirs, attribute)
        assert len(own) == len(expected) > 1
        for ours, other in zip(own, expected, strict=True):
            assert torch.allclose(ours, other, atol=TOLERANCE), (what, stack)


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_the_scaled_products_of_queries_and_keys(tiny, padded, name) -> None:
    model, family = tiny(name), family_of(name)
    with torch.no_grad():
        found = outputs_of(model, family, padded)
        for prefix in family.heads.modules:
            for stack in family.captured_stacks(prefix):
                parts = [found[f"{prefix}{what}"][stack] for what in family.attention]
                for query, key, value, scores, probs in zip(*parts, strict=True):
                    heads, width = query.shape[1], query.shape[3]
                    scale = 1.0 if name == "t5" else width**-0.5
                    for head in range(heads):
                        shared = head * key.shape[1] // heads
                        expected = torch.einsum("bqd,bkd->bqk", query[:, head], key[:, shared]) * scale
                        own = scores[:, head]
                        if name == "t5" and not prefix:  # its bias is part of the scores, the same for every row
                            own, expected = own - own[:1], expected - expected[:1]
                        assert torch.allclose(own, expected, atol=TOLERANCE, rtol=1e-4), (prefix, stack)
                    assert value.shape == key.shape
                    assert torch.allclose(probs.sum(-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_flow_through_what_is_captured_into_every_layer(tiny, padded, name) -> None:
    model, family = tiny(name).train(), family_of(name)
    found = outputs_of(model, family, padded)
    lists = [found["attention_scores"][stack.name] for stack in family.stacks]
    assert not any(probs[:, 0].isnan().any() for tensors in found["attention_probs"].values() for probs in tensors)
    torch.stack([scores.square().mean() for tensors in lists for scores in tensors]).sum().backward()
    for _, prefix, module in attention_modules(model, family):
        if prefix or family.stacks[0].shared:
            continue
        projections = [child for child in module.modules() if getattr(child, "weight", None) is not None]
        assert any(p.weight.grad is not None and float(p.weight.grad.abs().max()) > 0 for p in projections)


def test_parametrized_weights_get_their_gradients_too(tiny, padded) -> None:
    class Twice(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = tiny("bert").train()
    query = model.bert.encoder.layer[3].attention.self.query
    parametrize.register_parametrization(query, "weight", Twice())
    with parametrize.cached():
        found = forward_outputs(model, padded, {"attention_scores"})
        found["attention_scores"]["encoder"][3].square().sum().backward()
    assert float(query.parametrizations.weight.original.grad.abs().max()) > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_left_behind_also_by_a_forward_pass_that_fails(tiny, padded, name) -> None:
    model, family = tiny(name), family_of(name)
    before = model.config.to_json_string(use_diff=False)
    implementations = [module.config._attn_implementation for module in model.modules() if hasattr(module, "config")]
    attributes = [set(vars(module)) for module in model.modules()]
    forward_outputs(model, padded, family.captures - {"hidden"})  # transformers leaves hooks for hidden states
    with pytest.raises(ZeroDivisionError), capture(model, family, {"query"}):
        _ = 1 / 0
    assert model.config.to_json_string(use_diff=False) == before
    now = [module.config._attn_implementation for module in model.modules() if hasattr(module, "config")]
    assert now == implementations and set(now) == {"sdpa"}
    assert [set(vars(module)) for module in model.modules()] == attributes


def test_a_name_with_a_stack_means_that_stack_alone(tiny, padded) -> None:
    model, family = tiny("bart"), family_of("bart")
    with torch.no_grad():
        every = outputs_of(model, family, padded)
        one = forward_outputs(model, padded, {"logits", "decoder.cross.attention_probs", "encoder.query"})
    assert set(one) == {"logits", "valid", "decoder.cross.attention_probs", "encoder.query"}
    for name, own in (("cross.attention_probs", "decoder"), ("query", "encoder")):
        for tensor, other in zip(every[name][own], one[f"{own}.{name}"], strict=True):
            assert torch.equal(tensor, other)
    assert "encoder.cross.query" not in family.captures and "decoder.cross.query" in family.captures
    assert not any(name.startswith(("cross", "decoder")) for name in family_of("bert").captures)


def test_a_capture_of_nothing_is_an_error(tiny, padded) -> None:
    model, family = tiny("bert"), family_of("bert")
    astray = replace(family, heads=replace(family.heads, modules={"": "attention.output"}))
    sentence = r"^loss: nothing was captured of query in the encoder of BertFor"
    with pytest.raises(UserError, match=sentence), capture(model, astray, {"query"}):
        forward_logits(model, padded)

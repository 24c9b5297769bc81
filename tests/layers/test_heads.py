from __future__ import annotations

import copy

import pytest
import torch
import torch_pruning
from transformers import BartConfig, BartForConditionalGeneration, BertConfig, BertForSequenceClassification

from compress_exp.layers.heads import attentions
from compress_exp.layers.neurons import feed_forwards
from compress_exp.layers.shapes import settle, uneven
from compress_exp.layers.slices import inputs_of
from compress_exp.models.families.base import family_of, head_count
from tests.forward import forward_logits
from tests.slimming import FAMILIES, build, family_name, generated, masked_logits, shrink, some


@pytest.mark.parametrize("name", FAMILIES)
def test_removed_heads_leave_what_zeroed_heads_leave(name, batch):
    model, family = build(name), family_of(family_name(name))
    parts = some(attentions(model, family))
    expected, untouched = masked_logits(model, batch, parts), forward_logits(model, batch)
    shrink(model, parts)
    with torch.no_grad():
        found = forward_logits(model, batch)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, untouched, atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_attention_module_is_found_once(name):
    model, family = build(name), family_of(family_name(name))
    found = attentions(model, family)
    layers = 1 if name == "albert" else 4
    cross = 2 if family.kind == "encoder_decoder" else 0
    assert len({part.name for part in found}) == len(found) == layers + cross
    assert sum(part.role == "cross.attention_output" for part in found) == cross


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_takes_four_times_width_times_hidden_and_three_biases(name):
    model, family = build(name), family_of(family_name(name))
    part = attentions(model, family)[0]
    biases = 0 if family_name(name) in ("t5", "llama") else 3
    # Llama's: a key and a value head of width 8 with two heads of queries, in rows of queries and columns of outputs.
    entries = (2 * 8 + 4 * 8) * 32 if name == "llama" else 4 * 32 * 16 + biases * 16
    before = model.num_parameters()
    assert part.costs()[0].tolist() == [entries, entries, 4 * entries]
    part.keep(model, [1])
    assert before - model.num_parameters() == entries


def test_a_key_value_head_goes_with_its_queries(batch):
    model, family = build("llama"), family_of("llama")
    part = attentions(model, family)[0]
    before = {name: tensor.clone() for name, tensor in part.module.state_dict().items()}
    assert part.count == 2 and head_count(model.config, family, family.stacks[0]) == 2
    part.keep(model, [1])
    after = part.module.state_dict()
    assert torch.equal(after["q_proj.weight"], before["q_proj.weight"][16:])
    assert torch.equal(after["k_proj.weight"], before["k_proj.weight"][8:])
    assert torch.equal(after["v_proj.weight"], before["v_proj.weight"][8:])
    assert torch.equal(after["o_proj.weight"], before["o_proj.weight"][:, 16:])
    assert attentions(model, family)[0].count == 1
    assert uneven(model, family) == {"heads": {part.name: 1}}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("first", [[0], [1], [0, 1]])
@pytest.mark.parametrize("second", [[0], [1], [0, 1]])
def test_every_t5_block_takes_its_own_columns_of_the_shared_bias(first, second, implementation, batch):
    model, family = build("t5"), family_of("t5")
    model.set_attn_implementation(implementation)
    parts = [
        (part, first if ".block.0." in part.name else second)
        for part in attentions(model, family)
        if "SelfAttention" in part.name or first != second
    ]
    expected = masked_logits(model, batch, parts)
    tables = [stack.block[0].layer[0].SelfAttention.relative_attention_bias for stack in (model.encoder, model.decoder)]
    before = [table.weight.clone() for table in tables]
    shrink(model, parts)
    with torch.no_grad():
        assert torch.allclose(forward_logits(model, batch), expected, atol=1e-5)
    assert all(torch.equal(table.weight, old) for table, old in zip(tables, before, strict=True))


@pytest.mark.parametrize("name", [name for name in FAMILIES if family_of(family_name(name)).kind != "encoder"])
def test_generation_with_a_cache_equals_generation_without(name, batch):
    model, family = build(name), family_of(family_name(name))
    shrink(model, some(attentions(model, family)))
    cached, whole = generated(model, batch, use_cache=True), generated(model, batch, use_cache=False)
    assert torch.allclose(cached, whole, atol=1e-5)
    assert float((cached[1:] - cached[:-1]).abs().max()) > 1e-2


def test_heads_can_be_cut_again_and_keep_their_columns(batch):
    model, family = build("t5"), family_of("t5")
    wide = copy.deepcopy(model)
    model.config.num_heads = 2
    part = attentions(model, family)[1]
    part.keep(model, [1, 0])
    part = attentions(model, family)[1]
    part.keep(model, [0])
    assert model.get_submodule(part.name).heads == (1,)
    expected = masked_logits(wide, batch, [(attentions(wide, family)[1], [1])])
    with torch.no_grad():
        assert torch.allclose(forward_logits(model, batch), expected, atol=1e-5)


def test_equal_t5_heads_become_an_ordinary_architecture(batch):
    model, family = build("t5"), family_of("t5")
    parts = [(part, [1]) for part in attentions(model, family)]
    expected = masked_logits(model, batch, parts)
    shrink(model, parts)
    settle(model, family)
    assert uneven(model, family) == {}
    assert model.config.num_heads == model.encoder.config.num_heads == 1
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.allclose(forward_logits(plain.eval(), batch), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "bart"])  # torch-pruning sees no layer in the Conv1D of GPT-2
def test_shapes_and_outputs_equal_those_of_torch_pruning(name):
    torch.manual_seed(0)
    if name == "bert":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        ours = BertForSequenceClassification(BertConfig(vocab_size=400, attn_implementation="eager", **sizes))
        heads, neurons = [[1], [0, 3]], [[3, 5, 60], [0, 1]]
    else:
        each = {"attention_heads": 4, "ffn_dim": 64, "layers": 1}
        sizes = {f"{stack}_{key}": value for stack in ("encoder", "decoder") for key, value in each.items()}
        ours = BartForConditionalGeneration(
            BartConfig(vocab_size=400, d_model=32, attn_implementation="eager", use_cache=False, **sizes)
        )
        heads, neurons = [[1], [0, 3], [2]], [[3, 5, 60], [0, 1]]
    with torch.no_grad():
        for parameter in ours.eval().parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    theirs, ids = copy.deepcopy(ours), torch.arange(1, 25).view(2, 12)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids.flip(1)} if name == "bart" else {})
    if name == "bert":
        layers = theirs.bert.encoder.layer
        widened = [layer.intermediate.dense for layer in layers]
        attending = [(layer.attention.self, "value", "num_attention_heads") for layer in layers]
    else:
        encoder, decoder = theirs.model.encoder.layers[0], theirs.model.decoder.layers[0]
        widened = [encoder.fc1, decoder.fc1]
        modules = (encoder.self_attn, decoder.self_attn, decoder.encoder_attn)
        attending = [(module, "v_proj", "num_heads") for module in modules]
    graph = torch_pruning.DependencyGraph().build_dependency(
        theirs, example_inputs=inputs, forward_fn=lambda model, given: model(**given).logits
    )
    out = torch_pruning.prune_linear_out_channels
    for layer, gone in zip(widened, neurons, strict=True):
        graph.get_pruning_group(layer, out, idxs=gone).prune()
    for (attention, value, count), gone in zip(attending, heads, strict=True):
        channels = [8 * head + offset for head in gone for offset in range(8)]
        graph.get_pruning_group(getattr(attention, value), out, idxs=channels).prune()
        setattr(attention, count, getattr(attention, count) - len(gone))
    family = family_of(name)
    for part, gone in zip(attentions(ours, family) + feed_forwards(ours, family), heads + neurons, strict=True):
        part.keep(ours, [index for index in range(part.count) if index not in gone])
    for key, parameter in theirs.named_parameters():
        assert torch.equal(parameter, ours.get_parameter(key)), key
    assert inputs_of(attentions(ours, family)[1].output) == 16
    with torch.no_grad():
        assert torch.equal(ours(**inputs).logits, theirs(**inputs).logits)

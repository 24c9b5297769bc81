from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from compress_exp.config.checks import FieldError
from compress_exp.formats.artifact import save
from compress_exp.layers.heads import attentions
from compress_exp.layers.neurons import feed_forwards
from compress_exp.layers.shapes import uneven
from compress_exp.methods.parametrized import lock
from compress_exp.methods.prune.common.amount import Amount
from compress_exp.methods.prune.common.units import how_many, in_order
from compress_exp.methods.prune.heads import HeadPruning
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.prune.neurons import NeuronPruning
from compress_exp.methods.prune.structured import StructuredPruning, in_turns
from compress_exp.methods.select import Select
from compress_exp.models.families.base import family_of
from tests.forward import forward_logits
from tests.moments import at
from tests.slimming import FAMILIES, build, family_name

KINDS = {"heads": HeadPruning, "neurons": NeuronPruning, "structured": StructuredPruning}


@pytest.fixture
def method(no_budget):
    """`method("heads", sparsity=0.5)`."""
    return lambda kind, **values: KINDS[kind](name=f"prune/{kind}", train=no_budget, **values)


@pytest.fixture
def ready(context, batch):
    """`ready("bert")`: a context whose task sees one label a row, or one a position."""

    def make(name):
        rows = family_of(family_name(name)).kind == "encoder"
        found = dict(batch, labels=batch["labels"][:, 0] % 2) if rows else batch
        task = SimpleNamespace(
            outputs=("logits",),
            targets=lambda outputs, batch: (outputs["logits"].flatten(0, -2), batch["labels"].flatten()),
        )
        return replace(context(family_name(name)), task=task, calibration=lambda count: [found] * min(count, 2))

    return make


def members(units):
    return [sorted((part.output_name, index) for part, indices in unit.members for index in indices) for unit in units]


def test_the_smallest_of_all_layers_go_first_and_the_best_of_each_stays():
    parts = attentions(build("bert"), family_of("bert"))[:2]
    first, second = (part.output_name for part in parts)
    scores = [torch.tensor([0.3, 0.4]), torch.tensor([0.2, 0.1])]
    costs = [part.costs() for part in parts]
    assert members(in_order(parts, scores, costs, "global")) == [[(second, 1)], [(first, 0)]]
    assert members(in_order(parts, scores, costs, "layer")) == [[(first, 0), (second, 1)]]


def test_neurons_go_in_chunks_that_leave_a_multiple():
    part = feed_forwards(build("bert"), family_of("bert"))[0]
    part.keep(None, range(20))
    units = in_order([part], [torch.arange(20.0).flip(0)], [part.costs()], "layer", 8)
    assert [sorted(index for _, indices in unit.members for index in indices) for unit in units] == [
        [16, 17, 18, 19],
        list(range(8, 16)),
    ]
    assert [unit.costs[0] for unit in units] == [4 * 65, 8 * 65]


def test_an_amount_takes_the_nearest_number_of_units():
    part = feed_forwards(build("bert"), family_of("bert"))[0]
    units = in_order([part], [torch.arange(64.0)], [part.costs()], "layer", 8)
    entries = 64 * 65.0

    def amount(**values):
        return Amount(**({"sparsity": None, "parameters": None, "megabytes": None} | values))

    assert how_many(amount(sparsity=0.5), units, entries, 10_000, 40_000) == 4
    assert how_many(amount(sparsity=0.55), units, entries, 10_000, 40_000) == 4
    assert how_many(amount(parameters=10_000 - 3 * 8 * 65), units, entries, 10_000, 40_000) == 3
    assert how_many(amount(megabytes=0.04 - 4e-6 * 5 * 8 * 65), units, entries, 10_000, 40_000) == 5
    with pytest.raises(FieldError, match=r"parameters: 20000 cannot be reached.*from 6360 to 10000 can"):
        how_many(amount(parameters=20_000), units, entries, 10_000, 40_000)


def test_shares_say_how_strongly_each_kind_is_cut():
    model, family = build("bert"), family_of("bert")
    heads, neurons = attentions(model, family), feed_forwards(model, family)
    scores = torch.Generator().manual_seed(0)

    def costs(parts):
        return [part.costs() for part in parts]

    units = [
        in_order(heads, [torch.rand(2, generator=scores) for _ in heads], costs(heads), "global"),
        in_order(neurons, [torch.rand(64, generator=scores) for _ in neurons], costs(neurons), "layer", 8),
    ]
    turns = in_turns([(1.0, heads, units[0]), (2.0, neurons, units[1])])
    gone = [sum(unit.costs[0] for unit in turns[:6] if len(unit.members[0][1]) == size) for size in (1, 8)]
    assert gone == [2 * (4 * 32 * 16 + 3 * 16), 4 * 4 * 8 * 65]  # a quarter of the heads, half of the neurons


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["heads", "neurons", "structured"])
def test_half_of_what_is_concerned_goes(name, kind, method, ready):
    model, family = build(name), family_of(family_name(name))
    parts = {"heads": attentions, "neurons": feed_forwards}
    concerned = [part for key, find in parts.items() if kind in (key, "structured") for part in find(model, family)]
    entries, before = sum(float(part.costs()[:, 0].sum()) for part in concerned), model.num_parameters()
    model = method(kind, sparsity=0.5).prepare(model, ready(name))
    assert before - model.num_parameters() == entries / 2
    assert all(part.count == 1 for part in attentions(model, family)) == (kind != "neurons")
    if kind != "heads":
        assert {part.count for part in feed_forwards(model, family)} == {32}
    if kind == "neurons":
        assert uneven(model, family) == {}


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5_gated", "bart"])
def test_parameters_and_megabytes_land_as_near_as_units_allow(name, method, ready, tmp_path):
    model, family = build(name), family_of(family_name(name))
    part = feed_forwards(model, family)[0]
    step = float(part.costs()[:2, 0].sum())
    wanted = int(model.num_parameters() - 18.4 * step)
    model = method("neurons", parameters=wanted, multiple=2, scope="global").prepare(model, ready(name))
    assert abs(model.num_parameters() - wanted) <= step / 2
    model = build(name)
    megabytes = 4e-6 * (model.num_parameters() - 18.4 * step)
    model = method("structured", megabytes=megabytes, multiple=2).prepare(model, ready(name))
    tokenizer = SimpleNamespace(save_pretrained=lambda directory: None)
    save(model, tokenizer, tmp_path)
    unit = 4 * max(float(part.costs()[0, 0]) for part in attentions(build(name), family))
    header = 0.005 * megabytes * 1e6
    assert abs((tmp_path / "model.safetensors").stat().st_size - megabytes * 1e6) <= unit / 2 + header


def test_only_selected_layers_lose_heads(method, ready):
    model, family = build("t5"), family_of("t5")
    chosen = Select(roles=("cross.attention_output",), include=("decoder.block.1.*",))
    model = method("heads", sparsity=0.5, select=chosen).prepare(model, ready("t5"))
    assert [part.count for part in attentions(model, family)] == [2, 2, 2, 2, 2, 1]
    with pytest.raises(FieldError, match=r"select: no layer matched; heads are chosen by attention_output"):
        method("heads", sparsity=0.5, select=Select(roles=("query",))).prepare(build("t5"), ready("t5"))


def test_what_is_left_is_told_for_self_and_cross_attention_apart(method, ready, caplog):
    model, family = build("t5"), family_of("t5")
    with caplog.at_level("INFO", logger="compress_exp"):
        model = method("structured", sparsity=0.3).prepare(model, ready("t5"))
    heads = [part.count for part in attentions(model, family)]
    told = dict(line.split(": ") for line in caplog.messages)
    assert told["encoder heads left of attention_output"] == f"{heads[0]} {heads[1]}"
    assert told["decoder heads left of attention_output"] == f"{heads[2]} {heads[4]}"
    assert told["decoder heads left of cross.attention_output"] == f"{heads[3]} {heads[5]}"
    assert told["decoder neurons left of ffn_out"] == " ".join(
        str(part.count) for part in feed_forwards(model, family)[2:]
    )
    assert f"{model.num_parameters()} of the model are left" in told["prune/structured"]


@pytest.mark.parametrize("kind", ["heads", "neurons", "structured"])
def test_nothing_goes_at_zero(kind, method, ready, batch):
    model = build("bert")
    with torch.no_grad():
        expected = forward_logits(model, batch)
        model = method(kind, sparsity=0.0).prepare(model, ready("bert"))
        assert torch.equal(forward_logits(model, batch), expected)


def test_global_neurons_may_leave_different_widths_of_the_multiple(method, ready):
    model, family = build("bert"), family_of("bert")
    feed_forwards(model, family)[1].output.weight.data *= 0.01
    model = method("neurons", sparsity=0.3, scope="global", score="norm").prepare(model, ready("bert"))
    widths = [part.count for part in feed_forwards(model, family)]
    assert all(width % 8 == 0 for width in widths)
    assert set(uneven(model, family)["neurons"].values()) <= set(widths)


def test_weights_pruned_before_stay_pruned_and_locked(method, ready, budget):
    model = build("bert")
    first = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5)
    model = first.prepare(model, ready("bert"))
    first.step(at(model, 1.0))
    from compress_exp.methods.parametrized import bake, mark_masked

    mark_masked(model)
    bake(model)
    lock(model)
    model = method("structured", sparsity=0.5).prepare(model, ready("bert"))
    query = model.bert.encoder.layer[0].attention.self.query
    zeros = query.weight == 0
    assert query.weight.shape == (16, 32) and 0.3 < float(zeros.float().mean()) < 0.7
    lock(model)
    assert torch.equal(query.parametrizations.weight[0].mask, ~zeros)


def test_what_cannot_be_is_said_before_anything_trains(method, facts):
    known = replace(facts("bert"), heads={"encoder": 2}, neurons={"encoder": 64})
    with pytest.raises(FieldError, match=r"sparsity: 0.7 would empty a layer; at most 0.5 can go"):
        method("heads", sparsity=0.7).check(known)
    with pytest.raises(FieldError, match=r"sparsity: 0.95 would empty a layer; at most 0.875 can go"):
        method("neurons", sparsity=0.95).check(known)
    assert method("heads", sparsity=0.5).check(known).heads is None
    with pytest.raises(FieldError, match="nothing can follow quant/static"):
        method("heads", sparsity=0.5).check(replace(known, packed=(("quant/static", Select()),)))
    for values, message in (
        ({}, "exactly one of sparsity, parameters, megabytes"),
        ({"sparsity": 0.5, "parameters": 7}, "exactly one of"),
        ({"sparsity": 0.5, "calibration": 0}, "calibration: "),
    ):
        with pytest.raises(FieldError, match=message):
            method("heads", **values)
    with pytest.raises(FieldError, match="set one above 0"):
        method("structured", sparsity=0.5, heads=0.0, neurons=0.0)

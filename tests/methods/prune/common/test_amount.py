from __future__ import annotations

import pytest
import torch

from compress_exp.config.checks import FieldError
from compress_exp.formats.artifact import save
from compress_exp.methods.parametrized import bake, lock, mark_masked
from compress_exp.methods.prune.common.base import target_sparsity
from compress_exp.methods.prune.magnitude import MagnitudePruning
from tests.experiments import planned
from tests.moments import at


def pruning(budget, **amount):
    return MagnitudePruning(name="prune/magnitude", train=budget, **amount)


def finish(model):
    mark_masked(model)
    bake(model)


def nonzero(model):
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())


@pytest.mark.parametrize("amount", [{}, {"sparsity": 0.5, "parameters": 10}, {"parameters": 10, "megabytes": 1.0}])
def test_exactly_one_amount_is_set(amount, budget):
    with pytest.raises(FieldError, match="exactly one of sparsity, parameters, megabytes"):
        pruning(budget, **amount)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5"])
def test_as_many_parameters_are_left_as_asked_for(model_type, tiny, context, budget):
    model = tiny(model_type)
    whole = sum(p.numel() for p in model.parameters())
    before = whole - nonzero(model)
    wanted = round(0.8 * whole)
    method = pruning(budget, parameters=wanted)
    method.step(at(method.prepare(model, context(model_type)), 1.0))
    finish(model)
    tensors = 40
    assert nonzero(model) + before == pytest.approx(wanted, abs=tensors)


def test_zeros_of_an_earlier_stage_count_as_gone(tiny, context, budget):
    model = tiny("bert")
    zero_from_the_start = sum(p.numel() for p in model.parameters()) - nonzero(model)
    query = model.bert.encoder.layer[0].attention.self.query
    first = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5)
    first.step(at(first.prepare(model, context("bert")), 1.0))
    finish(model)
    lock(model)
    left = nonzero(model) + zero_from_the_start
    method = pruning(budget, parameters=left)
    model = method.prepare(model, context("bert"))
    assert target_sparsity(method.amount, model, method.name) == pytest.approx(0.5, abs=0.01)
    assert int((query.weight == 0).sum()) == query.weight.numel() // 2


def test_the_file_has_the_size_asked_for(data, context, tmp_path, budget, dense):
    from transformers import AutoTokenizer

    from compress_exp.formats.artifact import load

    sizes = ["hidden_size=128", "intermediate_size=512", "num_hidden_layers=4"]
    plan = planned("bert", data, "method=prune", *(f"model.architecture.{size}" for size in sizes))
    base = dense(plan)
    for megabytes in (1.2, 2.0):
        model = load(base)
        method = pruning(budget, megabytes=megabytes)
        method.step(at(method.prepare(model, context("bert")), 1.0))
        finish(model)
        directory = tmp_path / str(megabytes)
        directory.mkdir()
        save(model, AutoTokenizer.from_pretrained(base), directory)
        assert (directory / "model.safetensors").stat().st_size == pytest.approx(megabytes * 1e6, rel=0.01)


@pytest.mark.parametrize("amount", [{"parameters": 10}, {"megabytes": 1000.0}])
def test_what_cannot_be_reached_is_told_with_what_can(amount, tiny, context, budget):
    name = next(iter(amount))
    with pytest.raises(FieldError, match=rf"{name}: .* cannot be reached .* from .* to .* can"):
        pruning(budget, **amount).prepare(tiny("bert"), context("bert"))

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from compress_exp.experiment.build import train_stage
from compress_exp.experiment.prepare import prepare
from compress_exp.experiment.stages import Stage
from compress_exp.formats.artifact import load
from compress_exp.methods.prepared import Prepared
from compress_exp.methods.prune.taylor import TaylorPruning
from compress_exp.methods.prune.wanda import WandaPruning
from compress_exp.methods.quant.int8 import Int8
from tests.experiments import planned
from tests.variants import HOME, VARIANTS, chosen


@pytest.fixture
def stage(budget):
    methods = (WandaPruning(name="prune/wanda", train=budget, sparsity=0.5), Int8(name="quant/int8", train=budget))
    return Stage(("prune", "quant"), methods, {}, budget)


@pytest.fixture
def counted(context, batch):
    """`counted(calls)`: a context that notes every look at the calibration rows."""

    def make(calls):
        def calibration(count):
            calls.append(count)
            return [batch]

        return replace(context("bert"), calibration=calibration)

    return make


def test_what_was_decided_is_read_and_not_decided_again(stage, counted, tiny, tmp_path):
    calls = []
    first = prepare(stage, counted(calls), lambda: tiny("bert"), tmp_path).state_dict()
    assert len(calls) == 2  # Wanda's inputs, int8's ranges
    again = prepare(stage, counted(calls), lambda: tiny("bert"), tmp_path).state_dict()
    assert len(calls) == 2
    assert first.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(name.endswith("input_quantizer.high") and float(value) != 0 for name, value in again.items())


def test_a_stage_killed_between_two_members_ends_as_the_undisturbed_one(stage, counted, tiny, tmp_path):
    whole = prepare(stage, counted([]), lambda: tiny("bert"), _made(tmp_path / "whole")).state_dict()
    place = _made(tmp_path / "killed")

    class Killed(Exception):
        pass

    def second_dies(count, seen=[]):  # noqa: B006
        seen.append(count)
        if len(seen) == 2:
            raise Killed
        return counted([]).calibration(count)

    with pytest.raises(Killed):
        prepare(stage, replace(counted([]), calibration=second_dies), lambda: tiny("bert"), place)
    calls = []
    resumed = prepare(stage, counted(calls), lambda: tiny("bert"), place).state_dict()
    assert len(calls) == 1
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize("damage", ["tensors", "spec", "half"])
def test_what_was_damaged_is_decided_again(stage, counted, tiny, tmp_path, damage, caplog):
    whole = prepare(stage, counted([]), lambda: tiny("bert"), tmp_path).state_dict()
    file = tmp_path / ("prepared-0.safetensors" if damage == "tensors" else "prepared-0.json")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content[: len(content) // 2] if damage == "half" else content)
    calls = []
    again = prepare(stage, counted(calls), lambda: tiny("bert"), tmp_path).state_dict()
    assert calls == [16]  # Wanda's alone
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert "prepared-0" in caplog.text


def test_fixed_scores_are_kept_too(budget, counted, tiny, tmp_path, monkeypatch):
    method = TaylorPruning(name="prune/taylor", train=budget, sparsity=0.5)
    monkeypatch.setattr(TaylorPruning, "fixed_scores", lambda self, model, chosen, context: _random(chosen))
    stage = Stage(("prune",), (method,), {}, budget)
    torch.manual_seed(3)
    first = prepare(stage, counted([]), lambda: tiny("bert"), tmp_path).state_dict()
    torch.manual_seed(4)
    again = prepare(stage, counted([]), lambda: tiny("bert"), tmp_path).state_dict()
    scores = [name for name in first if name.endswith(".score")]
    assert scores and all(torch.equal(first[name], again[name]) for name in scores)


@pytest.mark.parametrize("variant", VARIANTS)
def test_insertion_looks_at_no_rows_and_draws_no_number(variant, data, dense, tmp_path):
    plan = planned(HOME.get(variant, "bert"), data, *chosen(variant))
    base = dense(plan)
    built = train_stage(plan, 0, base, base, tmp_path)
    context, kept = replace(built.context, calibration=_refuse), tmp_path / "state" / "prepared-0.json"
    prepared = Prepared()
    if kept.exists():
        prepared = Prepared(json.loads(kept.read_text())["spec"], load_file(kept.with_suffix(".safetensors")))
    inserted = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = plan.stages[0].methods[0].insert(load(base), prepared.spec, context)
        prepared.load(model)
        inserted.append(model.state_dict())
    assert inserted[0].keys() == inserted[1].keys()
    assert all(torch.equal(value, inserted[1][name]) for name, value in inserted[0].items())


def _random(chosen):
    return [torch.rand_like(target.modules[0].weight) for target in chosen]


def _refuse(count):
    raise AssertionError("it looks at rows")


def _made(directory):
    directory.mkdir()
    return directory

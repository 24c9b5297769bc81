"""A kill between any two hooks of a stage changes no bit of what comes out."""

from __future__ import annotations

import pytest

from compress_exp.experiment.build import run_stage
from compress_exp.methods.base import Method
from compress_exp.methods.quant.int8 import Int8
from tests.experiments import planned

WRITTEN = ("model.safetensors", "config.json", "history.csv")
SETTINGS = ("method=[prune/taylor,quant]", "stages=[[prune,quant]]", "loss=hidden", "train.checkpoint_steps=1")
HOOKS = ("fit", "insert", "begin", "parameter_groups", "batch", "penalty", "step", "after_step", "finish", "convert")


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def whole(data, dense, tmp_path_factory):
    plan = planned("bert", data, *SETTINGS)
    base, directory = dense(plan), tmp_path_factory.mktemp("whole")
    run_stage(plan, 0, base, base, directory)
    return directory


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_killed_stage_goes_on_to_the_same_bits(hook, moment, whole, data, dense, tmp_path, monkeypatch):
    plan = planned("bert", data, *SETTINGS)
    base, calls = dense(plan), []
    inner = getattr(Int8, hook)
    every_step = hook in ("batch", "penalty", "step", "after_step")

    def dying(self, *arguments):
        calls.append(hook)
        last = len(calls) == (2 if every_step else 1)
        if last and moment == "before":
            raise Killed
        answer = inner(self, *arguments)
        if last:
            raise Killed
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Int8, hook, dying)
        with pytest.raises(Killed):
            run_stage(plan, 0, base, base, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    run_stage(plan, 0, base, base, tmp_path)
    for name in WRITTEN:
        assert (whole / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_every_hook_that_acts_in_a_stage_is_killed():
    acting = {name for name, value in vars(Method).items() if callable(value) and not name.startswith("_")}
    others = {"check", "expand", "identity", "prepare", "retokenize", "rewound", "curves", "own_progress"}
    assert acting - others == set(HOOKS)

"""What no pruning of a checkpoint can reach is refused by its shapes, in the words that its weights would draw."""

from __future__ import annotations

import pytest

from compress_exp.config.checks import UserError
from compress_exp.experiment.build import apply_stage
from tests.experiments import planned

VARIANTS = {
    "gradual": (),
    "sparsegpt": (),
    "l0": ("method.prune.trim=true",),
    "heads": (),
    "neurons": (),
    "structured": (),
    "cofi": (),
    "layers": (),
}
FAMILIES = ("bert", "gpt2", "t5", "bart")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("amount", ["parameters=10", "megabytes=1000"])
def test_an_amount_out_of_reach_is_told_before_anything_trains(variant, family, amount, data, dense, tmp_path):
    name = amount.partition("=")[0]
    sparsity = () if variant == "l0" else ("method.prune.sparsity=null",)
    overrides = [f"method=prune/{variant}", *sparsity, f"method.prune.{amount}", *VARIANTS[variant]]
    random = planned(family, data, *overrides)
    base = dense(random)
    with pytest.raises(UserError, match=rf"^method\.prune\.{name}: .* cannot be reached") as late:
        apply_stage(random, 0, base, base, tmp_path)
    with pytest.raises(UserError) as early:
        planned(family, data, *overrides, f"model.path={base}")
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize("variant", ["magnitude", "wanda", "heads", "cofi"])
def test_names_that_match_nothing_are_told_before_anything_trains(variant, data, dense):
    overrides = [f"method=prune/{variant}", "method.prune.select.include=[nothing*]"]
    base = dense(planned("bert", data, *overrides))
    with pytest.raises(UserError, match=r"^method\.prune\.select: no (weight|layer) matched"):
        planned("bert", data, *overrides, f"model.path={base}")


def test_what_can_be_reached_is_not_refused(data, dense):
    base = dense(planned("t5", data, "method=prune"))
    for variant in VARIANTS:
        amount = ["method.prune.megabytes=0.21", "method.prune.sparsity=null", *VARIANTS[variant]]
        assert planned("t5", data, f"method=prune/{variant}", *amount, f"model.path={base}").stages

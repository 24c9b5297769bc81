"""The covering design is complete, and every file of a room is met by it."""

from __future__ import annotations

from compress_exp.config.plugins import modules
from compress_exp.models.families.base import family_of, model_types
from tests import covering
from tests.conftest import ARCHITECTURES
from tests.experiments import SMALL, configure


def test_every_two_levels_meet_or_are_refused():
    rows, barred = covering.read()
    met = set().union(*(covering.pairs_of(row) for row in rows))
    missing = [dict(pair) for pair in covering.all_pairs() if pair not in met | barred]
    assert not missing, f"run {covering.COMMAND}: {len(missing)} pairs do not meet, such as {missing[0]}"
    gone = {pair for pair in met | barred if pair not in set(covering.all_pairs())}
    assert not gone, f"run {covering.COMMAND}: there is no {dict(next(iter(gone)))} any more"


def test_the_plan_takes_every_experiment_and_refuses_what_does_not_meet(data):
    rows, barred = covering.read()
    refused = [row for row in rows if covering.planned(row, data) is None]
    assert not refused, f"run {covering.COMMAND}: the plan refuses {refused[0]}"
    plain = {name: levels[0] for name, levels in covering.levels().items()} | {"family": "bert"}
    looked = [dict(pair) for pair in sorted(barred, key=sorted) if {name for name, _ in pair} & {"variant"}]
    taken = [pair for pair in looked if covering.planned(covering.Row(**{**plain, **pair}), data) is not None]
    assert not taken, f"run {covering.COMMAND}: {taken[0]} may meet by now"


def test_each_variant_is_alone_at_home(data):
    alone = {row.variant for row in covering.read()[0] if row.partner == "alone"}
    assert alone == set(covering.levels()["variant"])


def test_every_loss_family_and_runtime_has_an_experiment(data):
    targets = {str(covering.planned(row, data).config.loss) for row in covering.read()[0]}
    files = [name for name in modules("compress_exp.losses") if name not in ("base", "criteria")]
    assert [name for name in files if not any(f"losses.{name}." in target for target in targets)] == []
    types = [configure(name, data).model.architecture.model_type for name in SMALL]
    small = [family_of(name) for name in (*types, *ARCHITECTURES)]
    unmet = [name for name in model_types() if family_of(name) not in small]
    assert not unmet, f"tests/experiments.py: SMALL has no model of {unmet[0]}; add a tiny one"
    assert {row.runtime for row in covering.read()[0]} == set(modules("compress_exp.runtimes")) - {"base"}

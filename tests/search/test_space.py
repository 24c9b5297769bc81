"""What overrides mean to a search, against Hydra's own reading of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from hydra._internal.utils import create_config_search_path
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from compress_exp.config.checks import UserError
from compress_exp.config.compose import Loader
from compress_exp.config.overrides import parse
from compress_exp.search.space import Space, has, read


def space(conf: Path, *arguments: str) -> Space:
    loader = Loader(create_config_search_path(str(conf)))
    known: dict[tuple[str, ...], DictConfig] = {}

    def composed(overrides: Sequence[str]) -> DictConfig:
        if (key := tuple(overrides)) not in known:
            known[key] = compose(loader, list(overrides))
        return known[key]

    return read(arguments, loader, composed)


def compose(loader: Loader, overrides: list[str]) -> DictConfig:
    try:
        return loader.load_configuration("config", overrides, RunMode.RUN)
    except HydraException as error:
        raise UserError(f"{error}: {overrides}") from error


def draws(given: Space, count: int = 60) -> list[list[str]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [given.overrides(study.ask()) for _ in range(count)]


def values(conf: Path, argument: str, count: int = 60) -> list[str]:
    return [overrides[0].partition("=")[2] for overrides in draws(space(conf, argument), count)]


@pytest.mark.parametrize(
    "argument",
    ["seed=range(1,10)", "seed=range(1,10,3)", "seed=range(9,1,-2)", "seed=range(3,4)", "method.prune.sparsity=1,2,3"]
    + [
        "method=prune,[prune,quant]",
        "method=choice(prune,quant)",
        "method=glob(*)",
        "method=glob(*,exclude=d*)",
        "seed=shuffle(1,2,3)",
    ]
    + ["method.prune.sparsity=range(0.25,1,0.25)", "method.prune.sparsity=sort(0.5,0.25)", "+new={a: 1},{a: 2}"],
)
def test_discrete_values_are_those_that_hydra_lists(conf: Path, argument: str) -> None:
    loader = Loader(create_config_search_path(str(conf)))
    (override,) = parse([argument], loader)
    assert set(values(conf, argument)) == set(override.sweep_string_iterator())


def test_a_grid_of_decimals_is_written_as_decimals(conf: Path) -> None:
    assert set(values(conf, "method.prune.sparsity=range(0.1,0.8,0.1)", 200)) == {f"0.{digit}" for digit in range(1, 8)}


def test_intervals_stay_inside_and_whole_ones_are_whole(conf: Path) -> None:
    found = [float(value) for value in values(conf, "method.prune.sparsity=interval(0.2,0.25)")]
    assert min(found) >= 0.2 and max(found) <= 0.25 and len(set(found)) > 50
    assert all(len(str(value)) <= 8 for value in found)
    assert set(values(conf, "seed=int(interval(1,4))")) == {"1", "2", "3", "4"}
    assert {float(value) for value in values(conf, "method.prune.sparsity=interval(100000,100001)")} != {1e5}


def test_a_logarithmic_interval_is_drawn_on_its_scale(conf: Path) -> None:
    found = sorted(float(value) for value in values(conf, "method.prune.sparsity=tag(log,interval(1e-6,1e-2))", 400))
    assert 1e-6 <= found[0] < 1e-5 and 1e-3 < found[-1] <= 1e-2
    assert 0.3e-4 < found[200] < 3e-4
    assert {"1", "64"} & set(values(conf, "seed=tag(log,int(interval(1,64)))", 200))


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("seed=tag(quantized,interval(1,2))", "the only tag is log"),
        ("seed=tag(log,range(1,9))", "the only tag is log"),
        ("seed=interval(2,1)", "the interval must have low <= high"),
        ("seed=tag(log,interval(0,1))", "0 < low <= high"),
        ("seed=range(3,3)", "holds no value"),
        ("seed=range(1,9,-1)", "holds no value"),
        ("method=glob(x*)", "nothing matches"),
    ],
)
def test_what_cannot_be_searched_is_told_in_one_sentence(conf: Path, argument: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        space(conf, argument)
    assert argument in str(error.value) and "\n" not in str(error.value)


def test_a_value_is_drawn_only_where_the_chosen_groups_have_its_key(conf: Path) -> None:
    given = space(
        conf,
        "method=quant,prune,[prune,quant]",
        "method.prune.sparsity=interval(0,1)",
        "method.quant.bits=2,4",
        "method.quant.scale=3",
        "seed=7",
        "+extra.key=1,2",
    )
    keys = {frozenset(item.partition("=")[0] for item in overrides[1:]) for overrides in draws(given)}
    always = {"seed", "+extra.key"}
    prune, quant = {"method.prune.sparsity"}, {"method.quant.bits", "method.quant.scale"}
    assert keys == {frozenset(always | prune), frozenset(always | quant), frozenset(always | prune | quant)}
    for overrides in draws(given, 20):
        config = given.compose(overrides)
        if "method.quant.scale=3" in overrides:
            assert config.method.quant.scale == 3
        assert ("prune" in config.method) == any(item.startswith("method.prune.") for item in overrides)
    study = optuna.create_study()
    trial = study.ask()
    drawn = given.overrides(trial)
    assert {item.partition("=")[0] for item in drawn} & set(given.drawn) == set(trial.params)


def test_a_group_inside_a_choice_is_drawn_where_it_is_and_decides_what_else_there_is(conf: Path) -> None:
    given = space(
        conf,
        "method.distill.loss.temperature=interval(1,4)",
        "method.distill.loss.smoothing=0.1,0.2",
        "loss@method.distill.loss=soft,hard",
        "method=quant,distill",
    )
    found = {
        frozenset(item.partition("=")[0] for item in overrides if "=quant" not in item) for overrides in draws(given)
    }
    inside = {"method", "loss@method.distill.loss"}
    assert found == {
        frozenset(),
        frozenset(inside | {"method.distill.loss.temperature"}),
        frozenset(inside | {"method.distill.loss.smoothing"}),
    }
    for overrides in draws(given, 20):
        given.compose(overrides)
    assert len(given.examples()) == 3


def test_examples_show_every_choice_and_refuse_a_key_that_none_has(conf: Path) -> None:
    given = space(conf, "method=quant,prune", "method.prune.sparsity=interval(0.2,1)", "seed=1,2")
    assert [sorted(overrides) for overrides in given.examples()] == [
        ["method.prune.sparsity=0.2", "method=prune", "seed=1"],
        ["method=quant", "seed=1"],
    ]
    with pytest.raises(UserError, match=r"method\.prune\.sparsty"):
        space(conf, "method=quant,prune", "method.prune.sparsty=interval(0.2,1)").examples()
    with pytest.raises(UserError, match=r"method\.prune\.sparsty"):
        space(conf, "method=quant,prune", "method.prune.sparsty=0.2").examples()


def test_the_order_of_writing_does_not_matter_to_the_identity(conf: Path) -> None:
    arguments = ["method=prune,quant", "method.prune.sparsity=interval(0.2,0.9)", "seed=3", "outputs=here"]
    one = space(conf, *arguments)
    shuffled = random.Random(0).sample(arguments, len(arguments))
    other = space(conf, *["method=quant,prune" if item.startswith("method=") else item for item in shuffled])
    assert one.identity() == other.identity()
    elsewhere = space(conf, *arguments[:-1], "outputs=there")
    assert one.identity() != elsewhere.identity()
    rest, apart = elsewhere.without(["outputs"])
    assert rest.identity() == one.without(["outputs"])[0].identity()
    assert apart == ["outputs=there"]
    wider = space(conf, "method=prune,quant", "method.prune.sparsity=interval(0.2,0.95)", "seed=3", "outputs=here")
    assert one.identity() != wider.identity()


def test_of_two_with_one_key_the_later_counts_and_a_drawn_key_can_be_fixed(conf: Path) -> None:
    given = space(conf, "seed=1,2", "seed=3")
    assert draws(given, 1) == [["seed=3"]]
    assert draws(space(conf, "seed=1,2").fix("seed", "5"), 1) == [["seed=5"]]


def test_a_key_is_there_whatever_its_value() -> None:
    config = OmegaConf.create({"a": {"b": None, "c": "???", "d": "${nowhere}"}, "e": None})
    assert all(has(config, key) for key in ("a", "a.b", "a.c", "a.d", "e"))
    assert not any(has(config, key) for key in ("b", "a.x", "e.x", "a.b.x"))

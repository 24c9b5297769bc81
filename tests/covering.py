"""The covering design of the contract test: few experiments in which every two levels of two factors meet once.

`python -m tests.covering` writes `covering.json` anew, seeded; that is needed when a method, loss, runtime or small
model comes or goes. What may not meet is what the plan refuses, and nothing else. The full product is `full()`.

A greedy generator in the manner of AETG (Cohen et al. 1997, doi:10.1109/32.605761).
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import random
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import get_class
from omegaconf import OmegaConf

from compress_exp.config.checks import UserError
from compress_exp.config.compose import choices
from compress_exp.experiment.plan import Plan, plan
from compress_exp.runtimes.base import names, runtime
from tests.experiments import SMALL, configure, write_data
from tests.variants import LATE, SHRINKING, TRAINED, VARIANTS, chosen

FILE = Path(__file__).with_suffix(".json")
COMMAND = "python -m tests.covering"
TRIES = 12
SMALLER = (*SHRINKING, *LATE)
HEADLESS = ("prune/heads", "prune/structured")  # before training


class Row(NamedTuple):
    """One experiment."""

    variant: str
    family: str  # of the small model, and with it the task
    partner: str  # alone, or another method: before it or after it in a stage of its own, or with it in one stage
    runtime: str
    loss: str


Pair = frozenset[tuple[str, str]]


@functools.cache
def levels() -> dict[str, list[str]]:
    """All levels by factor; the first is the plain one."""
    families = sorted({variant.partition("/")[0] for variant in VARIANTS} - {"finetune"})
    ends = [name for name in families if get_class(_method(name)["_target_"]).packs]
    partners = ["alone", *(f"before {name}" if name in ends else f"after {name}" for name in families)]
    partners += [f"with {variant}" for variant in TRAINED if families[0] < variant.partition("/")[0] in families]
    losses = sorted(choices("loss"), key=lambda name: (name != "task", name))
    runtimes = sorted(names(), key=lambda name: (name != "eager", name))
    return dict(zip(Row._fields, (VARIANTS, list(SMALL), partners, runtimes, losses), strict=True))


def planned(row: Row, data: Path) -> Plan | None:
    """The checked plan of a row.

    None where the plan refuses it, the runtime does not serve such a model, or nothing in it would use its loss.
    """
    if _out_of_place(row._asdict()):
        return None
    found = _planned(row._replace(runtime="eager"), data)
    if found is None:
        return None
    kind, precision = found.facts.family.kind, "bf16" if found.facts.rounded else "f32"
    return found if runtime(row.runtime).serves(kind, "cpu", precision) else None


@functools.cache
def _planned(row: Row, data: Path) -> Plan | None:
    try:
        found = plan(OmegaConf.create(_config(row, data)))
    except UserError:
        return None
    if row.loss == "attention" and row.variant in HEADLESS:
        return None  # refused when training begins: which layers lost heads is known only then
    used = any(stage.trains and row.loss in stage.losses for stage in found.stages)
    return found if used or row.loss == "task" else None


def _config(row: Row, data: Path) -> dict[str, Any]:
    place, _, other = row.partner.partition(" ")
    kind = row.variant.partition("/")[0]
    own = _method(row.variant, *chosen(row.variant)[1:])
    if row.loss != "task" and row.variant not in TRAINED:
        own["train"]["max_steps"] = 3
    methods = {kind: own}
    if place in ("before", "after"):
        partner = _method(other)
        partner["train"]["max_steps"] = 0
        second = f"{other}2" if other == kind else other
        methods = {kind: own, second: partner} if place == "before" else {other: partner, f"{kind}2": own}
        if other == kind == "prune" and own.get("sparsity") is not None:
            own["sparsity"] = 0.5 if row.variant in SMALLER else 0.7
    elif place == "with":
        methods[other.partition("/")[0]] = _method(other, *chosen(other)[1:])
    config = _model(row.family, data)
    for method in methods.values():  # resolved here: OmegaConf parses every interpolation anew
        for name, value in method["train"].items():
            method["train"][name] = config["train"][name] if value == f"${{train.{name}}}" else value
    stages = [list(methods)] if place == "with" else None
    return {**config, "method": methods, "loss": _loss(row.loss), "stages": stages}


def _out_of_place(given: dict[str, str]) -> bool:
    """At once there is no order: of two methods the first by name is the variant, the other the partner."""
    variant, (place, _, other) = given.get("variant"), given.get("partner", "").partition(" ")
    if variant is None or place != "with":
        return False
    return not ("/" in variant and variant.partition("/")[0] < other.partition("/")[0])


def pairs_of(row: Row) -> set[Pair]:
    """The pairs of levels that meet in a row."""
    return {_pair(*both) for both in itertools.combinations(zip(Row._fields, row, strict=True), 2)}


def _pair(one: tuple[str, str], other: tuple[str, str]) -> Pair:
    """A variant meets a partner by its name, all else meets the partner's family of methods."""
    if {one[0], other[0]} == {"variant", "partner"}:
        return frozenset({one, other})
    return frozenset((name, level.partition("/")[0] if name == "partner" else level) for name, level in (one, other))


def all_pairs() -> list[Pair]:
    """Every pair of levels of two factors, in a fixed order."""
    items = {name: [(name, level) for level in found] for name, found in levels().items()}
    both = (pair for two in itertools.combinations(items.values(), 2) for pair in itertools.product(*two))
    pairs = {tuple(sorted(_pair(*pair))): None for pair in both if not _out_of_place(dict(pair))}
    return [frozenset(pair) for pair in pairs]


def simplest(pair: Pair, data: Path) -> Row | None:
    """An allowed row in which two levels meet, all else plain as far as possible; None where there is none."""
    found = {name: given if name in ("variant", "family") else given[:1] for name, given in levels().items()}
    for name, level in pair:
        found[name] = [given for given in levels()[name] if given == level or given.startswith(f"{level}/")]
    if {name for name, _ in pair} == {"variant", "partner"}:
        found |= {name: [level] for name, level in pair}
    rows = (Row(*values) for values in itertools.product(*found.values()))
    return next((row for row in rows if planned(row, data)), None)


def generate(data: Path, seed: int = 0) -> tuple[list[Row], list[Pair]]:
    """A design, and the pairs that may not meet."""
    simple = {pair: simplest(pair, data) for pair in all_pairs()}
    barred = {pair for pair, row in simple.items() if row is None}
    missing = dict.fromkeys(pair for pair in simple if pair not in barred)
    generator, rows = random.Random(seed), []
    while missing:
        first = next(iter(missing))
        made = [simple[first], *(_complete(first, missing, barred, generator) for _ in range(TRIES))]
        made.sort(key=lambda row: -len(pairs_of(row) & missing.keys()))
        row = next(row for row in made if first in pairs_of(row) and planned(row, data))
        rows.append(row)
        for pair in pairs_of(row):
            missing.pop(pair, None)
    return sorted(rows), [pair for pair in simple if pair in barred]


def _complete(pair: Pair, missing: dict[Pair, None], barred: set[Pair], generator: random.Random) -> Row:
    """A row with a pair: factor by factor the level that meets most others for the first time, a plain one if none."""
    given = {
        name: generator.choice([one for one in levels()[name] if one == level or one.startswith(f"{level}/")])
        if name == "partner"
        else level
        for name, level in sorted(pair)
    }
    rest = [name for name in Row._fields if name not in given]
    for name in generator.sample(rest, len(rest)):
        plain, *others = levels()[name]
        options = [plain, *generator.sample(others, len(others))]
        if name in ("variant", "family"):
            generator.shuffle(options)
        new = {level: [_pair((name, level), item) for item in given.items()] for level in options}
        able = {level: found for level, found in new.items() if not barred.intersection(found)} or new
        given[name] = max(able, key=lambda level: sum(one in missing for one in able[level]))
    return Row(**given)


def full() -> list[Row]:
    """Every combination of levels, with those that the plan refuses."""
    rows = itertools.starmap(Row, itertools.product(*levels().values()))
    return [row for row in rows if not _out_of_place(row._asdict())]


def read() -> tuple[list[Row], set[Pair]]:
    """The rows that are kept, and the pairs that may not meet."""
    kept = json.loads(FILE.read_text())
    barred = {
        frozenset(zip(both.split(), pair, strict=True)) for both, many in kept["refused"].items() for pair in many
    }
    return [Row(*row) for row in kept["rows"]], barred


def write(rows: list[Row], barred: list[Pair]) -> None:
    """Keep them, a line each."""
    groups: dict[str, list[list[str]]] = {}
    for pair in barred:
        ordered = sorted(pair, key=lambda item: Row._fields.index(item[0]))
        groups.setdefault(" ".join(name for name, _ in ordered), []).append([level for _, level in ordered])
    lines = ",\n".join(json.dumps(row) for row in rows)
    told = ",\n".join(
        f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, many)) + "\n]" for name, many in groups.items()
    )
    FILE.write_text(f'{{"rows": [\n{lines}\n],\n"refused": {{\n{told}\n}}}}\n')


@functools.cache
def _model(family: str, data: Path) -> dict[str, Any]:
    return OmegaConf.to_container(configure(family, data), resolve=True)  # type: ignore[return-value]


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return OmegaConf.to_container(configure("bert", Path("nowhere"), *overrides))  # type: ignore[return-value]


def _method(variant: str, *settings: str) -> dict[str, Any]:
    """A method's node, composed from its file."""
    (node,) = _composed((f"method={variant}", *settings))["method"].values()
    return copy.deepcopy(node)


def _loss(name: str) -> dict[str, Any]:
    """Scores of attention reach queries and keys only."""
    return _composed(("loss=[task,attention]" if name == "attention" else f"loss={name}",))["loss"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        design, barred_pairs = generate(write_data(Path(directory)))
    write(design, barred_pairs)
    print(f"{FILE}: {len(design)} experiments, {len(barred_pairs)} pairs that may not meet")

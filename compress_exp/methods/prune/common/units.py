"""Heads and neurons in the order in which they go, and how many of them go to reach an amount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compress_exp.config.checks import FieldError
from compress_exp.layers.slices import Slice
from compress_exp.methods.base import Facts
from compress_exp.methods.prune.common.amount import Amount, content, told
from compress_exp.methods.prune.common.ranking import NoOrder, check_scores
from compress_exp.methods.select import Select
from compress_exp.models.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCOPES = ("global", "layer")
METRICS = ("sparsity", "parameters", "megabytes")


@dataclass(frozen=True)
class Unit:
    """Heads or neurons that go together.

    Attributes:
        members: which, of which part.
        costs: their entries, their entries that are not pruned, their stored bytes.
    """

    members: tuple[tuple[Slice, tuple[int, ...]], ...]
    costs: tuple[float, float, float]


def in_order(
    parts: Sequence[Slice],
    scores: Sequence[Tensor],  # (units of a part,) each
    costs: Sequence[Tensor],  # (units of a part, 3) each
    scope: str,
    multiple: int = 1,
) -> list[Unit]:
    """The units of some parts, the first to go first; the best of each part are left out.

    Args:
        parts: heads or neurons.
        scores: one number a unit, larger is kept longer; among equal ones the lower index goes first.
        costs: what each unit takes (`Slice.costs`).
        scope: "global" compares the units of all parts, "layer" takes equally many from each.
        multiple: so many go at once, after the first few that leave a multiple of it.

    Raises:
        FieldError: a score is not finite.
    """
    try:
        check_scores(scores)
    except NoOrder as error:
        part = parts[error.index]
        raise FieldError("", f"{part.output_name} ({part.unit}s): {error}") from error
    chunks: list[tuple[float, int, Unit]] = []
    for number, (part, score, cost) in enumerate(zip(parts, scores, costs, strict=True)):
        order = score.argsort(stable=True).tolist()
        first = part.count % multiple or multiple
        pieces = [order[:first], *(order[start : start + multiple] for start in range(first, part.count, multiple))]
        for index, piece in enumerate(pieces[:-1]):
            unit = Unit(((part, tuple(piece)),), tuple(cost[piece].sum(0).tolist()))
            rank = float(score[piece].mean()) if scope == "global" else (index + 1) / len(pieces)
            chunks.append((rank, number, unit))
    chunks.sort(key=lambda chunk: chunk[:2])
    if scope == "global":
        return [unit for _, _, unit in chunks]
    return [_together([unit for _, _, unit in group]) for _, group in groupby(chunks, lambda chunk: chunk[0])]


def _together(units: Sequence[Unit]) -> Unit:
    members = tuple(member for unit in units for member in unit.members)
    entries, kept, size = (sum(unit.costs[index] for unit in units) for index in range(3))
    return Unit(members, (entries, kept, size))


def how_many(amount: Amount, units: Sequence[Unit], entries: float, parameters: float, size: float) -> int:
    """How many units are to go so that what is left is nearest to an amount.

    Args:
        amount: what is wanted; its sparsity is a share of `entries`.
        units: in the order in which they go.
        entries: of all heads and neurons concerned.
        parameters: of the model, pruned ones not counted.
        size: bytes of the stored model.

    Raises:
        FieldError: no number of them comes near.
    """
    name = next(name for name in METRICS if getattr(amount, name) is not None)
    value = float(getattr(amount, name))
    whole = {"sparsity": 0.0, "parameters": parameters, "megabytes": size / 1e6}[name]
    scale = {"sparsity": 1 / entries, "parameters": -1.0, "megabytes": -1e-6}[name]
    costs = torch.tensor([unit.costs for unit in units], dtype=torch.float64).view(-1, 3)[:, METRICS.index(name)]
    left = whole + scale * torch.cat([torch.zeros(1, dtype=torch.float64), costs.cumsum(0)])
    count = int((left - value).abs().argmin())
    slack = float((left[1:] - left[:-1]).abs().max()) / 2 if len(left) > 1 else 0.0
    if float((left[count] - value).abs()) > slack + 1e-9 * abs(value):
        raise FieldError(
            name,
            f"{told(name, value)} cannot be reached, since every layer keeps its last head and neurons; "
            f"from {told(name, float(left.min()))} to {told(name, float(left.max()))} can",
        )
    return count


def refuse_shared(facts: Facts) -> None:
    """Refuse layers that share their weights: each would lose heads and neurons of its own.

    Raises:
        FieldError: naming what lets them share.
    """
    if facts.shared:
        told = "heads and neurons cannot go from layers that share their weights"
        raise FieldError("", f"{told}; put {facts.shared} after it")


def check_removable(amount: Amount, parts: Sequence[Slice], multiple: int, model: PreTrainedModel) -> None:
    """Refuse what no order of the units reaches.

    Args:
        amount: what is wanted.
        parts: heads and neurons that may go.
        multiple: what is left of a layer's neurons is a multiple of it.
        model: has the parts, with or without weights.

    Raises:
        FieldError: too much stays, or too little is there.
    """
    units: list[Unit] = []
    for part in parts:
        units += in_order(
            [part], [torch.zeros(part.count)], [part.costs()], "layer", multiple if part.unit == "neuron" else 1
        )
    how_many(amount, units, entries_of(parts), *content(model))


def entries_of(parts: Sequence[Slice]) -> float:
    """The parameters of all units of some parts."""
    return sum(float(part.costs()[:, 0].sum()) for part in parts)


def survivors(units: Sequence[Unit]) -> dict[str, list[int]]:
    """What is left of every part that loses some of these units, by the projection out of it."""
    gone: dict[str, tuple[Slice, set[int]]] = {}
    for unit in units:
        for part, members in unit.members:
            gone.setdefault(part.output_name, (part, set()))[1].update(members)
    return {name: [index for index in range(part.count) if index not in lost] for name, (part, lost) in gone.items()}


def left(parts: Sequence[Slice], units: Sequence[Unit], family: Family) -> dict[str, list[int]]:
    """How many heads or neurons each part keeps, by stack and role: self- and cross-attention fare differently."""
    gone: Counter[str] = Counter()
    for unit in units:
        for part, members in unit.members:
            gone[part.output_name] += len(members)
    counts: dict[str, list[int]] = {}
    for part in parts:
        stack = family.stack_of(part.output_name)
        kind = f"{stack.name if stack else ''} {part.unit}s left of {part.role}"
        counts.setdefault(kind, []).append(part.count - gone[part.output_name])
    return counts


def chosen(parts: Sequence[Slice], select: Select) -> list[Slice]:
    """The parts whose projection out of them is selected.

    Raises:
        FieldError: there is none.
    """
    found = [part for part in parts if select.takes(part.output_name, part.role)]
    if not found:
        roles = ", ".join(sorted({part.role for part in parts}))
        raise FieldError("select", f"no layer matched; {parts[0].unit}s are chosen by {roles}")
    return found

"""Truncated singular value decomposition: every selected matrix as a product of two thin ones.

W (out × in) = U Σ Vᵀ becomes second · first with first = Σ_r^½ V_rᵀ and second = U_r Σ_r^½, the nearest product of
rank r in the Frobenius norm (Eckart & Young 1936), at an error of √(Σ_{i>r} σ_i²). It has r·(in + out) weights, fewer
than the matrix where r < in·out / (in + out), and as many multiplications; what it would not make smaller stays as it
is. Ranks follow from a share of the weights, the same for every matrix or dealt out over all by σ² / (in + out), from
the share of the energy Σ σ² that is kept, or are given. The factors train like other weights, and later stages prune
and quantize them; methods at once begin with the factors. Zeros of an earlier pruning would not survive: refused.
Defaults: half the weights of every projection, then the root's training, without which most of the quality is gone.
Cost: one decomposition of each matrix in double precision on the CPU (two with energy or a global scope).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from compress_exp.config.checks import FieldError, check_choice, check_number
from compress_exp.layers.low_rank import LowRank, factors
from compress_exp.layers.slices import inputs_of, outputs_of
from compress_exp.layers.surgery import replace_module
from compress_exp.layers.weights import weight_of
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.context import Context
from compress_exp.methods.prepared import Prepared
from compress_exp.methods.select import OUTSIDE_BLOCKS, Select, Target, targets
from compress_exp.models.families.base import Family, is_conv1d, is_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("compress_exp")
SCOPES = ("tensor", "global")
TABLES = tuple(role for role in OUTSIDE_BLOCKS if role != "head")


def rank_of_share(share: float, out: int, inputs: int) -> int:
    """The largest rank, but at least 1, whose factors have at most that share of a matrix's weights."""
    return max(1, int(share * out * inputs / (out + inputs)))


def rank_of_energy(
    energy: float,
    values: Tensor,  # (min(out, in),) singular values, falling
) -> int:
    """The smallest rank whose singular values have at least that share of the sum of all squares."""
    kept = values.double().square().cumsum(0)
    return int((kept < energy * kept[-1]).sum()) + 1


def ranks_of_budget(share: float, spectra: Sequence[Tensor], shapes: Sequence[tuple[int, int]]) -> list[int]:
    """Ranks that together keep the most energy at a share of all weights: the largest σ² / (in + out) come first.

    A matrix whose factors would take as many weights as itself counts with its own, and gets every rank.

    Args:
        share: of the weights of all matrices together.
        spectra: singular values of each, falling.
        shapes: (out, in) of each.

    Raises:
        FieldError: rank 1 everywhere is more.
    """
    left = share * sum(out * inputs for out, inputs in shapes) - sum(map(sum, shapes))
    if left < 0:
        least = sum(map(sum, shapes)) / sum(out * inputs for out, inputs in shapes)
        raise FieldError("share", f"{share:g} is less than rank 1 everywhere takes; at least {least:.3g} is needed")
    gains = [
        (float(value) ** 2 / sum(shape), -number)
        for number, (values, shape) in enumerate(zip(spectra, shapes, strict=True))
        for value in values[1:]
    ]
    ranks = [1] * len(shapes)
    for _, negative in sorted(gains, reverse=True):
        number = -negative
        out, inputs = shapes[number]
        now, then = (min(rank * (out + inputs), out * inputs) for rank in (ranks[number], ranks[number] + 1))
        if then - now > left:
            break
        left -= then - now
        ranks[number] += 1
    return ranks


@dataclass(frozen=True, kw_only=True)
class SVD(Method):
    """Factor every selected projection.

    Attributes:
        share: of the weights that the factors keep, at most 0.999; or
        rank: of every product; or
        energy: share of Σ σ² of each matrix that is kept, in (0, 1]. Exactly one of the three is set.
        scope: with share, "tensor" gives every matrix its share, "global" deals the sum out over all.
        multiple: ranks of a share are rounded down to a multiple of it, where they reach one, those of an energy up.
    """

    origin: ClassVar[str] = "factorize/svd"

    share: float | None = None
    rank: int | None = None
    energy: float | None = None
    scope: str = "tensor"
    multiple: int = 8

    preserves_sparsity: ClassVar[bool] = False
    replaces_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("share", "rank", "energy") if getattr(self, name) is not None]
        if len(given) != 1:
            told = f"{' and '.join(given)} are set; set the others to null" if given else "none of them is set"
            raise FieldError((given or ["share"])[-1], f"exactly one of share, rank, energy is to be set; {told}")
        if self.rank is not None:
            check_number("rank", self.rank, 1)
        else:
            check_number(given[0], getattr(self, given[0]), 1e-6, 1 if given[0] == "energy" else 0.999)
        check_number("multiple", self.multiple, 1)
        check_choice("scope", self.scope, SCOPES)
        if self.scope == "global" and self.share is None:
            raise FieldError("scope", "global deals out a share; set share, or scope=tensor")

    def check(self, facts: Facts) -> Facts:
        """Projections can be factored, tables cannot; how wide what is left is depends on the ranks."""
        for role in self.select.roles or ():
            if role in TABLES:
                raise FieldError("select.roles", f"{role!r} is a table and no projection; leave it out")
        after = super().check(facts)
        if facts.factored and self.select == Select():
            raise FieldError("select", f"{facts.factored} factored every projection; select others, or leave one out")
        if facts.skeleton is not None and (self.rank is not None or self.select != Select()):
            chosen = self._targets(facts.skeleton(), facts.family)
            if self.rank is not None and not any(_smaller(self.rank, _shape(target)) for target in chosen):
                most = max(_break_even(*_shape(target)) for target in chosen)
                raise FieldError("rank", f"{self.rank} makes no selected matrix smaller; at most {most} does")
        return replace(after, widths={}, factored=self.name)

    def fit(self, model: PreTrainedModel, context: Context) -> Prepared:
        """The ranks, and the factors of every matrix that they make smaller."""
        chosen = self._targets(model, context.family)
        wanted = zip(chosen, self._ranks(chosen), strict=True)
        ranks = {target.names[0]: rank for target, rank in wanted if _smaller(rank, _shape(target))}
        if not ranks:
            raise FieldError("", "no matrix becomes smaller at the ranks that are asked for; keep less")
        tensors: dict[str, Tensor] = {}
        lost = energy = 0.0
        for target in chosen:
            name = target.names[0]
            if (rank := ranks.get(name)) is not None:
                matrix = _matrix(target)
                first, second = factors(matrix, rank)
                tensors |= {f"{name}.first.weight": first.float(), f"{name}.second.weight": second.float()}
                lost += float((matrix - second @ first).square().sum())
                energy += float(matrix.square().sum())
        told = (self.name, len(ranks), len(chosen), min(ranks.values()), max(ranks.values()), (lost / energy) ** 0.5)
        log.info("%s: %d of %d matrices are factored, rank %d to %d; ‖W − Ŵ‖ / ‖W‖ over them is %.4f", *told)
        return Prepared({"ranks": ranks}, tensors)

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Empty factors; layers that share a matrix share its factors."""
        for target in self._targets(model, context.family):
            if (rank := spec["ranks"].get(target.names[0])) is None:
                continue
            made = [LowRank.build(module, {"rank": rank}) for module in target.modules]
            for name, new in zip(target.names, made, strict=True):
                new.first.weight, new.second.weight = made[0].first.weight, made[0].second.weight
                replace_module(model, name, new)
        return model

    def _ranks(self, chosen: Sequence[Target]) -> list[int]:
        shapes = [_shape(target) for target in chosen]
        if self.rank is not None:
            return [self.rank] * len(chosen)
        if self.energy is not None:
            kept = (rank_of_energy(self.energy, torch.linalg.svdvals(_matrix(target))) for target in chosen)
            return [-(-rank // self.multiple) * self.multiple for rank in kept]
        assert self.share is not None
        if self.scope == "tensor":
            ranks = [rank_of_share(self.share, *shape) for shape in shapes]
        else:
            ranks = ranks_of_budget(self.share, [torch.linalg.svdvals(_matrix(target)) for target in chosen], shapes)
        return [rank // self.multiple * self.multiple or rank for rank in ranks]

    def _targets(self, model: PreTrainedModel, family: Family) -> list[Target]:
        found = targets(model, family, self.select)
        for target in found:
            if target.role not in (*family.roles.values(), "head") or not all(map(is_linear, target.modules)):
                told = "is a factor already" if is_linear(target.modules[0]) else "is a table"
                raise FieldError("select", f"{', '.join(target.names)} {told}; exclude it")
        return found


def _shape(target: Target) -> tuple[int, int]:
    return outputs_of(target.modules[0]), inputs_of(target.modules[0])


def _matrix(target: Target) -> Tensor:  # (out, in) float64 on the CPU
    module = target.modules[0]
    weight = weight_of(module).detach().cpu().double()
    return weight.T if is_conv1d(module) else weight


def _break_even(out: int, inputs: int) -> int:
    """The largest rank whose factors have fewer weights than a matrix."""
    return (out * inputs - 1) // (out + inputs)


def _smaller(rank: int, shape: tuple[int, int]) -> bool:
    return rank <= _break_even(*shape)

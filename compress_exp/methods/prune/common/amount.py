"""How much to prune, as a share of the selected weights, as what is left of the model, or as the size of its file."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from compress_exp.config.checks import FieldError, check_number
from compress_exp.layers.surgery import is_pruned
from compress_exp.layers.weights import original
from compress_exp.methods.base import Facts
from compress_exp.methods.parametrized import Adapter, Gate, plain_name
from compress_exp.methods.select import Select, targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HIGHEST = 0.999
HEADER = 100  # bytes that a tensor's entry in the header of a safetensors file takes beside its name, about


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What a pruning is to reach; exactly one of the three is set.

    Attributes:
        sparsity: share of the selected weights that is zero, in [0, 0.999].
        parameters: nonzero parameters of the whole model.
        megabytes: size of `model.safetensors` in 10⁶ bytes, with pruned tensors as bitmask and float32 values.
    """

    sparsity: float | None
    parameters: int | None
    megabytes: float | None

    def __post_init__(self) -> None:
        given = {"sparsity": self.sparsity, "parameters": self.parameters, "megabytes": self.megabytes}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            told = f"{' and '.join(names)} are set" if names else "none of them is set"
            hint = "; set the others to null" if names else ""
            raise FieldError(
                (names or ["sparsity"])[-1],
                f"exactly one of sparsity, parameters, megabytes is to be set; {told}{hint}",
            )
        check_number(names[0], given[names[0]], 0, HIGHEST if names[0] == "sparsity" else None)

    def share(self, model: PreTrainedModel, modules: Sequence[nn.Module]) -> float:
        """The share of the weights of these modules that must be zero.

        Args:
            model: the whole model; nothing of it is changed.
            modules: the holders of the weights that are pruned, each weight once.

        Raises:
            FieldError: no share of them reaches it.
        """
        if self.sparsity is not None:
            return self.sparsity
        weights = [original(module) for module in modules]
        count = sum(weight.numel() for weight in weights)
        others, size = content(model, {id(weight) for weight in weights})
        if self.parameters is not None:
            share = (others + count - self.parameters) / count
            return _checked("parameters", self.parameters, share, others + (1 - HIGHEST) * count, others + count)
        assert self.megabytes is not None
        fixed = size + count / 8
        low, high = fixed + 4 * (1 - HIGHEST) * count, fixed + 4 * count
        share = (high - self.megabytes * 1e6) / (4 * count)
        return _checked("megabytes", self.megabytes, share, low / 1e6, high / 1e6)


@dataclass(frozen=True, kw_only=True)
class ToAmount:
    """What all methods that prune to an amount have as settings.

    Attributes:
        sparsity: share of what is selected that goes; or
        parameters: nonzero parameters that are left of the whole model; or
        megabytes: size of the stored weights in 10⁶ bytes. Exactly one of the three is set.
    """

    sparsity: float | None = None
    parameters: int | None = None
    megabytes: float | None = None

    @property
    def amount(self) -> Amount:
        """How much goes."""
        return Amount(sparsity=self.sparsity, parameters=self.parameters, megabytes=self.megabytes)


def shapes_of(facts: Facts, amount: Amount, select: Select) -> PreTrainedModel | None:
    """The dense model without weights, where they tell what an amount or a selection comes to."""
    asked = amount.sparsity is None or select != Select()
    return facts.skeleton() if facts.skeleton is not None and asked else None


def check_reach(amount: Amount, select: Select, facts: Facts) -> None:
    """Refuse what the dense model cannot reach by zeros, before anything is loaded.

    Raises:
        FieldError: no weight is selected, or no share of the weights selected reaches the amount.
    """
    model = shapes_of(facts, amount, select)
    if model is not None:
        amount.share(model, [target.modules[0] for target in targets(model, facts.family, select)])


def _checked(name: str, value: float, share: float, low: float, high: float) -> float:
    if not 0 <= share <= HIGHEST:
        can = f"from {told(name, low)} to {told(name, high)} can"
        raise FieldError(name, f"{told(name, value)} cannot be reached by pruning these weights; {can}")
    return share


def told(name: str, value: float) -> str:
    """An amount as a sentence shows it."""
    return f"{value:.0f}" if name == "parameters" else f"{value:.4g}{' MB' if name == 'megabytes' else ''}"


def content(model: nn.Module, chosen: Set[int] = frozenset()) -> tuple[int, float]:
    """Nonzero entries and stored bytes of every tensor that is not chosen, with the headers of all."""
    seen: set[int] = set()
    nonzero, size = 0, 0.0
    for name, module in model.named_modules():
        if isinstance(module, Gate | Adapter):  # which are multiplied in
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            header = HEADER + len(plain_name(f"{name}.{own}"))
            size += header
            if id(parameter) in chosen:
                size += header  # bitmask and values are two tensors
                continue
            kept, width = _passing(module, own, parameter), parameter.element_size()
            nonzero += kept
            size += min(parameter.numel() * width, parameter.numel() / 8 + kept * width)
    return nonzero, size


def _passing(module: nn.Module, name: str, parameter: Tensor) -> int:
    """The entries that nothing locked zeroes, and that no earlier stage pruned."""
    if name == "weight" and is_pruned(module):
        return int(parameter.count_nonzero())
    if not isinstance(module, ParametrizationList):
        return parameter.numel()
    kept = torch.ones_like(parameter, dtype=torch.bool)
    for gate in module:
        if isinstance(gate, Gate):
            kept &= gate.kept(parameter)
    return int(kept.sum())

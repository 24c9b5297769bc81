"""Taking rows and columns out of projections, so that tensors shrink."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeGuard

import torch
from torch import Tensor, nn

from compress_exp.layers.stored import Stored
from compress_exp.layers.surgery import is_pruned
from compress_exp.models.families.base import is_conv1d

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def keep_outputs(module: nn.Module, index: Tensor) -> None:
    """Keep the output channels of a Linear or Conv1D that `index` lists, in its order; the bias goes along."""
    _select(module, "weight", 1 if is_conv1d(module) else 0, index)
    if getattr(module, "bias", None) is not None:
        _select(module, "bias", 0, index)
    setattr(module, "nf" if is_conv1d(module) else "out_features", len(index))


def keep_inputs(module: nn.Module, index: Tensor) -> None:
    """Keep the input channels of a Linear or Conv1D that `index` lists, in its order."""
    _select(module, "weight", 0 if is_conv1d(module) else 1, index)
    setattr(module, "nx" if is_conv1d(module) else "in_features", len(index))


def _select(module: nn.Module, name: str, axis: int, index: Tensor) -> None:
    old = getattr(module, name)
    new = old.detach().index_select(axis, index.to(old.device)).clone()
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))


def reader(projection: nn.Module) -> nn.Module:
    """The module whose input channels are those of a projection: itself, or the first of its factors."""
    return projection.get_submodule(projection.parts[0]) if _is_factored(projection) else projection


def writer(projection: nn.Module) -> nn.Module:
    """The module whose output channels are those of a projection: itself, or the last of its factors."""
    return projection.get_submodule(projection.parts[-1]) if _is_factored(projection) else projection


def _is_factored(projection: nn.Module) -> TypeGuard[Stored]:
    return isinstance(projection, Stored) and bool(projection.parts)


def inputs_of(module: nn.Module) -> int:
    """The input channels of a Linear, Int8Linear or Conv1D."""
    return int(getattr(module, "nx" if is_conv1d(module) else "in_features"))


def outputs_of(module: nn.Module) -> int:
    """The output channels of a Linear, Int8Linear or Conv1D."""
    return int(getattr(module, "nf" if is_conv1d(module) else "out_features"))


@dataclass(frozen=True)
class Slice(ABC):
    """A part of a block whose units (heads, neurons) can go: projections into it, and the one out of it.

    Attributes:
        name: of the module (or block) in the model.
        output_name: the name of the projection out of it.
        role: that projection's role.
        inputs: projections, or their last factors, whose output channels belong to the units.
        output: the projection, or its first factor, whose input channels belong to them.
    """

    name: str
    output_name: str
    role: str
    inputs: tuple[nn.Module, ...]
    output: nn.Module

    unit: ClassVar[str]

    @property
    @abstractmethod
    def count(self) -> int:
        """How many units there are."""

    @abstractmethod
    def keep(self, model: PreTrainedModel, units: Sequence[int]) -> None:
        """Keep these units, in this order, and nothing of the others."""

    def matrices(self) -> tuple[list[Tensor], Tensor]:  # (units, in) each, (out, units) where a unit is one channel
        """The weights of the projections in and out, as output × input."""
        return [_rows(module) for module in self.inputs], _rows(self.output)

    def costs(self) -> Tensor:  # (count, 3) float64
        """What each unit takes: entries, entries that are not pruned, stored bytes."""
        costs = torch.zeros(self.count, 3, dtype=torch.float64)
        for module in self.inputs:
            # A fused projection holds several runs of units one after the other; grouped keys are narrower.
            length = min(outputs_of(module), inputs_of(self.output))
            runs = _rows(module).reshape(-1, self.count, length // self.count, inputs_of(module))
            costs += _costs(module, runs.transpose(0, 1).flatten(1))
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                entries = bias.numel() / self.count
                costs += torch.tensor([entries, entries, entries * bias.element_size()])
        return costs + _costs(self.output, _rows(self.output).T.reshape(self.count, -1))


def _rows(module: nn.Module) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.detach().T if is_conv1d(module) else weight.detach()


def _costs(module: nn.Module, units: Tensor) -> Tensor:  # (units, entries of each) -> (units, 3)
    entries = torch.full((len(units),), units.shape[1], dtype=torch.float64)
    if not is_pruned(module):
        return torch.stack([entries, entries, entries * units.element_size()], 1)
    kept = (units != 0).sum(1, dtype=torch.float64).cpu()
    return torch.stack([entries, kept, entries / 8 + kept * units.element_size()], 1)

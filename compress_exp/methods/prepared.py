"""What a method decided before training: kept on disk, so that a stage that goes on need not decide it again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Prepared:
    """The result of `Method.fit`.

    Attributes:
        spec: plain values (JSON) by which `Method.insert` knows what to insert.
        tensors: entries of the model's state after the insertion, by name, that are to have these values.
    """

    spec: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def load(self, model: PreTrainedModel) -> None:
        """Give the entries their values.

        Raises:
            ValueError: the model has no entry of that name or shape.
        """
        state = model.state_dict(keep_vars=True)
        for name, value in self.tensors.items():
            if name not in state or state[name].shape != value.shape:
                raise ValueError(f"what was prepared holds {name}, which the model has not")
            state[name].data.copy_(value)


def entries(model: PreTrainedModel, modules: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The entries of a model's state that lie in some modules and end in some way.

    Args:
        model: after the insertion.
        modules: names.
        suffixes: such as ".factor", of a mask.
    """
    places = tuple(f"{name}." for name in modules)
    state = model.state_dict()
    return {name: value for name, value in state.items() if name.startswith(places) and name.endswith(suffixes)}

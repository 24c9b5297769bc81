"""Random pruning: the control that every criterion has to beat (Gale, Elsen & Hooker 2019, arXiv:1902.09574).

Each weight's score is uniform, U(0, 1). Defaults: 50 % of every tensor, before training. Cost: no data, a float32 score
for every weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from compress_exp.layers.weights import original
from compress_exp.methods.context import Context
from compress_exp.methods.prune.common.base import Pruning
from compress_exp.methods.select import Target
from compress_exp.methods.window import Rounds

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class RandomPruning(Rounds, Pruning):
    """Rank by uniform numbers, the same on every device for the same seed."""

    origin: ClassVar[str] = "prune/random"

    def fixed_scores(self, model: PreTrainedModel, chosen: Sequence[Target], context: Context) -> list[Tensor]:
        """One seeded draw for every weight."""
        generator = torch.Generator().manual_seed(context.seed)
        return [
            torch.rand(original(target.modules[0]).shape, generator=generator).to(context.device) for target in chosen
        ]

"""Movement pruning (Sanh, Wolf & Rush 2020, arXiv:2005.07683): keep the weights that training moves away from zero.

a = (W ⊙ M(S))·x with M = 1 for the top of the learned scores S of each matrix. The gradient passes M straight through,
∂L/∂S = ∂L/∂W' ⊙ W, so that S gathers −Σ η·g·w; pruned weights go on getting score gradients and may come back.
In blocks (Lagunas et al. 2021, arXiv:2109.04838) one score stands for a block of weights.
The masks are ranked a hundred times between `start` and `end` (in the paper at every step) and held afterwards.
Cost: a float32 score with Adam's two moments for every weight (every block).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress_exp.config import FieldError, check_number
from compress_exp.methods.base import Context
from compress_exp.methods.parametrized import Mask, attach, owned, passing
from compress_exp.methods.prune.base import UPDATES, Pruning, ranked, set_masks
from compress_exp.methods.schedules import sparsity_at
from compress_exp.methods.select import targets
from compress_exp.models.families.base import is_conv1d

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MovementGate(Mask):
    """A mask that passes its gradient on to learned scores.

    Args:
        weight: what it gates, (out, in), or (in, out) for a Conv1D.
        block: rows and columns of the weight that share a score.

    Attributes:
        tick: when it was ranked last.
    """

    tick: Tensor

    def __init__(self, weight: Tensor, block: tuple[int, int] = (1, 1)) -> None:
        super().__init__(weight)
        self.block = block
        grid = [-(-size // step) for size, step in zip(weight.shape, block, strict=True)]
        self.scores = nn.Parameter(weight.new_zeros(grid))
        self.register_buffer("tick", torch.tensor(-1))

    def forward(self, weight: Tensor) -> Tensor:
        """W ⊙ M; the difference is zero in value, and its gradient is that of the scores."""
        return weight * (self.mask + self.spread(self.scores - self.scores.detach()))

    def spread(
        self,
        grid: Tensor,  # one entry per block
    ) -> Tensor:  # one entry per weight
        """Give every weight of a block the block's value."""
        rows, columns = self.block
        if self.block == (1, 1):
            return grid
        height, width = self.mask.shape
        return grid.repeat_interleave(rows, 0)[:height].repeat_interleave(columns, 1)[:, :width]

    def blocks(
        self,
        kept: Tensor,  # bool, one entry per weight
    ) -> Tensor:  # bool, one entry per block
        """Whether anything of each block may be kept."""
        if self.block == (1, 1):
            return kept
        grid = torch.zeros_like(self.scores, dtype=torch.bool)
        places = kept.nonzero() // torch.tensor(self.block, device=kept.device)
        grid[places[:, 0], places[:, 1]] = True
        return grid


@dataclass(frozen=True, kw_only=True)
class MovementPruning(Pruning):
    """Rank by scores that are learned with the weights.

    Attributes:
        score_learning_rate: of the scores, which follow the same warm-up and decay as the weights.
        block: outputs and inputs that share a score; [1, 1] scores every weight on its own.
    """

    score_learning_rate: float = 0.01
    block: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("score_learning_rate", self.score_learning_rate, 0)
        if len(self.block) != 2:
            raise FieldError("block", f"{list(self.block)} is not allowed, outputs and inputs are, as in [32,32]")
        for size in self.block:
            check_number("block", size, 1)
        if not self.trains:
            raise FieldError("train", "scores are learned; set max_steps or epochs above 0")

    def prepare(self, model: PreTrainedModel, context: Context) -> PreTrainedModel:
        """Give every selected weight a gate with scores of zero; what is locked stays so."""
        for target in targets(model, context.family, self.select):
            outputs, inputs = self.block
            gate = MovementGate(target.weight, (inputs, outputs) if is_conv1d(target.modules[0]) else self.block)
            gate.owner = self.name
            attach(target, gate)
        self.share_of(model)
        return model

    def parameter_groups(self, model: PreTrainedModel) -> list[dict[str, Any]]:
        """The scores."""
        scores = [gate.scores for _, gate in owned(model, self.name, MovementGate)]
        return [{"params": scores, "lr": self.score_learning_rate, "weight_decay": 0.0}]

    def step(self, model: PreTrainedModel, progress: float) -> None:
        """Keep the highest scores, of what is not locked."""
        holders = owned(model, self.name, MovementGate)
        tick = math.ceil(round(progress * UPDATES, 6))
        if all(int(gate.tick) == tick for _, gate in holders):
            return
        kept = [gate.blocks(passing(module, but=self.name)) for module, gate in holders]
        sparsity = sparsity_at(tick / UPDATES, self.share_of(model), self.schedule)
        scores = [gate.scores.detach() for _, gate in holders]
        grids = ranked([module for module, _ in holders], scores, kept, sparsity, self.scope)
        set_masks(holders, [gate.spread(grid) for (_, gate), grid in zip(holders, grids, strict=True)], self.name)
        for _, gate in holders:
            gate.tick.fill_(tick)

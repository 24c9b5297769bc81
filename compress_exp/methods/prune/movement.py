"""Movement pruning (Sanh, Wolf & Rush 2020, arXiv:2005.07683): keep the weights that training moves away from zero.

a = (W ⊙ M(S))·x with M = 1 for the top of the learned scores S of each matrix. The gradient passes M straight through,
∂L/∂S = ∂L/∂W' ⊙ W, so that S gathers −Σ η·g·w; pruned weights go on getting score gradients and may come back. In
blocks (Lagunas et al. 2021, arXiv:2109.04838) one score stands for a block of weights, of which as many go as add up to
the sparsity.
Defaults: scores start at 0 and learn at 0.01, cuts from 10 % to 80 % of the training; blocks of 32 × 32. The masks are
ranked a hundred times between `start` and `end` (in the paper at every step) and held afterwards.
It is made for long trainings (10 epochs in the paper): scores say something only where weights can move as far as they
are from zero, which is looked at and told.
Cost: a float32 score with Adam's two moments for every weight (every block).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from compress_exp.config.checks import FieldError, check_choice, check_number
from compress_exp.layers.weights import original
from compress_exp.methods.base import Method
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import Mask, attach, owned
from compress_exp.methods.prune.common.base import Pruning, target_sparsity
from compress_exp.methods.prune.common.ranking import ranked_groups
from compress_exp.methods.rate import reach
from compress_exp.methods.select import targets
from compress_exp.models.families.base import is_conv1d

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("compress_exp")


class MovementGate(Mask):
    """A mask that passes its gradient on to learned scores.

    Args:
        weight: what it gates, (out, in), or (in, out) for a Conv1D.
        block: rows and columns of the weight that share a score.

    """

    def __init__(self, weight: Tensor, block: tuple[int, int] = (1, 1)) -> None:
        super().__init__(weight)
        self.block = block
        grid = [-(-size // step) for size, step in zip(weight.shape, block, strict=True)]
        self.scores = nn.Parameter(weight.new_zeros(grid))

    def forward(self, weight: Tensor) -> Tensor:
        """W ⊙ M; the difference is zero in value, and its gradient is that of the scores."""
        return weight * (self.factor + self.spread(self.scores - self.scores.detach()))

    def spread(
        self,
        grid: Tensor,  # one entry per block
    ) -> Tensor:  # one entry per weight
        """Give every weight of a block the block's value."""
        rows, columns = self.block
        if self.block == (1, 1):
            return grid
        height, width = self.factor.shape
        return grid.repeat_interleave(rows, 0)[:height].repeat_interleave(columns, 1)[:, :width]

    def counts(
        self,
        kept: Tensor,  # bool, one entry per weight
    ) -> Tensor:  # one entry per block
        """How many weights of each block may be kept."""
        rows, columns = self.block
        height, width = self.scores.shape
        whole = kept.new_zeros(height * rows, width * columns)
        whole[: kept.shape[0], : kept.shape[1]] = kept
        return whole.view(height, rows, width, columns).sum((1, 3))


def warn_of_standstill(method: Method, holders: Sequence[tuple[nn.Module, MovementGate]], steps: int) -> None:
    """Say so where training is too short to move weights as far as they are from zero.

    Scores are then little but the signs of noise, and weights that share a sign go together: outputs shift as one, to
    the point where the model says the same whatever it reads, and rates that small cannot shift them back.
    """
    sizes = torch.stack([original(module).detach().abs().median() for module, _ in holders])
    if (far := reach(steps, method.train)) < (size := float(sizes.median())):
        log.warning(
            "%s: %d steps move weights by at most %.2g, and half of them are larger than %.2g, so that scores are "
            "noise; raise train.epochs or train.learning_rate of the method, or take prune/gradual",
            method.name,
            steps,
            far,
            size,
        )


@dataclass(frozen=True, kw_only=True)
class MovementPruning(Pruning):
    """Rank by scores that are learned with the weights.

    Attributes:
        score_learning_rate: of the scores, which follow the same warm-up and decay as the weights.
        block: outputs and inputs that share a score; [1, 1] scores every weight on its own.
    """

    origin: ClassVar[str] = "prune/movement"

    score_learning_rate: float = 0.01
    block: tuple[int, int] = (1, 1)

    version: ClassVar[int] = 2
    nested: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("score_learning_rate", self.score_learning_rate, 0)
        if len(self.block) != 2:
            raise FieldError("block", f"{list(self.block)} is not allowed, outputs and inputs are, as in [32,32]")
        for size in self.block:
            check_number("block", size, 1)
        if self.block != (1, 1):
            check_choice("scope", self.scope, ("tensor", "global"))
        if not self.trains:
            raise FieldError("train", "scores are learned; set max_steps or epochs above 0")

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Give every selected weight a gate with scores of zero; what is locked stays so."""
        for target in targets(model, context.family, self.select):
            outputs, inputs = self.block
            gate = MovementGate(
                original(target.modules[0]), (inputs, outputs) if is_conv1d(target.modules[0]) else self.block
            )
            gate.owner = self.name
            attach(target.modules, gate)
        target_sparsity(self.amount, model, self.name)
        if self.block == (1, 1):
            warn_of_standstill(self, owned(model, self.name, MovementGate), context.steps)
        return model

    def parameter_groups(self, work: Work) -> list[dict[str, Any]]:
        """The scores."""
        scores = [gate.scores for _, gate in owned(work.model, self.name, MovementGate)]
        return [{"params": scores, "lr": self.score_learning_rate, "weight_decay": 0.0}]

    def score(self, module: nn.Module, mask: Mask) -> Tensor:
        """The learned ones, of weights or of blocks."""
        assert isinstance(mask, MovementGate)
        return mask.scores.detach()

    def ranked(
        self,
        holders: Sequence[tuple[nn.Module, Mask]],
        kept: Sequence[Tensor],  # bool, in each weight's shape: what is not locked
        sparsity: float,
    ) -> list[Tensor]:  # bool, in each weight's shape
        """Of blocks, those of smallest score whose weights add up to the sparsity go."""
        if self.block == (1, 1):
            return super().ranked(holders, kept, sparsity)
        gates = [gate for _, gate in holders if isinstance(gate, MovementGate)]
        counts = [gate.counts(mask).flatten() for gate, mask in zip(gates, kept, strict=True)]
        scores = [gate.scores.detach().flatten() for gate in gates]
        masks = ranked_groups(scores, counts, [mask.numel() for mask in kept], sparsity, self.scope)
        return [gate.spread(mask.view_as(gate.scores)) for gate, mask in zip(gates, masks, strict=True)]

"""What pruning on calibration rows shares: masks that are decided once, before any training, block by block.

Cost: two passes over the calibration rows through each block (see `compress_exp.methods.calibration` for memory), and
none over the training data where `train.max_steps` is 0. With a budget the rest trains on under the masks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress_exp.config.checks import FieldError, UserError, check_number
from compress_exp.config.identity import later
from compress_exp.layers.weights import original
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.calibration import Statistic, stream
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import Mask, attached, passing, take
from compress_exp.methods.prepared import Prepared, entries
from compress_exp.methods.prune.common.amount import ToAmount, check_reach
from compress_exp.methods.prune.common.base import sparsity_of, target_sparsity, tell
from compress_exp.methods.select import OUTSIDE_BLOCKS, Target, targets
from compress_exp.models.families.base import is_conv1d

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class CalibratedPruning(ToAmount, Method, ABC):
    """Zero weights by what their inputs are, every tensor to the same sparsity.

    Attributes:
        calibration: batches of 32 training rows that the inputs are taken from.
        sequential: within a block, too, weights see what the pruned ones before them leave, at twice the passes.
    """

    calibration: int = 16
    sequential: bool = later(False, before=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("calibration", self.calibration, 1)
        _ = self.amount

    def check(self, facts: Facts) -> Facts:
        """Anything dense or already pruned can be pruned (further), inside the blocks."""
        for role in self.select.roles or ():
            if role in OUTSIDE_BLOCKS:
                raise FieldError(
                    "select.roles",
                    f"{self.name} goes through the blocks, {role!r} lies outside; "
                    "leave it out, or take prune/magnitude",
                )
        after = super().check(facts)
        check_reach(self.amount, self.select, facts)
        return replace(after, pruned=True)

    def fit(self, model: PreTrainedModel, context: Context) -> Prepared:
        """The masks, and the weights that some variants change to make up for what goes."""
        self.insert(model, {}, context)
        chosen = targets(model, context.family, self.select)
        sparsity = target_sparsity(self.amount, model, self.name)
        if sparsity:
            self.prune(model, context, chosen, sparsity)
        return Prepared({}, entries(model, [target.names[0] for target in chosen], (".factor", "weight.original")))

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Give every selected weight a mask; one that an earlier stage left is taken over."""
        take(targets(model, context.family, self.select), self.name)
        return model

    def prune(self, model: PreTrainedModel, context: Context, chosen: Sequence[Target], sparsity: float) -> None:
        """Decide the masks, in the order of the blocks."""

        def gather(target: Target) -> Statistic:
            return self.gather(target, rows(target.modules[0], original(target.modules[0])).shape[1], context.device)

        def compress(target: Target, statistic: Statistic) -> None:
            self.set(target, statistic, sparsity)

        batches = context.calibration(self.calibration)
        stream(model, context.family, batches, chosen, gather, compress, self.sequential)

    def set(self, target: Target, statistic: Statistic | None, sparsity: float) -> None:
        """Decide one mask, and write what becomes of the weight.

        Raises:
            UserError: nothing would be left, or the inputs are not finite.
        """
        module = target.modules[0]
        mask = attached(module, Mask)
        assert mask is not None
        trained = original(module).data
        kept = rows(module, passing(module))
        try:
            weight, new = self.cut(rows(module, trained), kept, statistic, sparsity)
        except ValueError as error:
            raise UserError(f"{self.name}: {target.names[0]}: {error}") from error
        if not bool(new.any()):
            raise UserError(
                f"{self.name} at sparsity {sparsity:.3g} prunes {target.names[0]} to nothing; prune less, or leave it "
                "out by select"
            )
        mask.factor.copy_(rows(module, new))
        trained.copy_(rows(module, weight))

    @abstractmethod
    def gather(self, target: Target, width: int, device: torch.device) -> Statistic:
        """An empty statistic of the inputs of a weight."""

    @abstractmethod
    def cut(
        self,
        weight: Tensor,  # (out, in)
        kept: Tensor,  # bool (out, in): what may still be kept
        statistic: Statistic | None,
        sparsity: float,
    ) -> tuple[Tensor, Tensor]:  # (out, in), bool (out, in)
        """The new weight and what is kept of it."""

    def finish(self, work: Work) -> None:
        """Say what was reached."""
        tell(work.model, self.name)

    def curves(self, work: Work) -> dict[str, float]:
        """The sparsity reached, over the selected weights."""
        return {"sparsity": sparsity_of(work.model, self.name)}


def rows(module: nn.Module, tensor: Tensor) -> Tensor:
    """A weight as rows of outputs: transposed for Conv1D (in × out); and back."""
    return tensor.T if is_conv1d(module) else tensor

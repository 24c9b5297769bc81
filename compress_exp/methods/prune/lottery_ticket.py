"""Lottery tickets (Frankle & Carbin 2019, arXiv:1803.03635; for BERT Chen et al. 2020, arXiv:2007.12223).

The pretrained weights θ₀ are trained, cut by global |θ|, and the survivors set back to θ₀ (or to their values k % into
the first training: Renda et al. 2020, arXiv:2003.02389), in rounds that each prune the same share of what is left; then
m ⊙ θ₀ is trained once. The controls train, with the same counts per tensor, a random mask, the ticket's mask on new
random weights θ₀′, or on θ₀″, whose values are permuted within each tensor.
Deviation: after rewinding to k % the learning rate begins anew, where Renda et al. go on from k %.
Defaults: 50 % of all weights in 5 rounds, rewound to the pretrained weights.
Cost: (rounds + 1) times the budget, one more copy of the weights, in memory and in checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from compress_exp.config.checks import FieldError
from compress_exp.methods.base import Facts
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import Mask, owned, trained
from compress_exp.methods.prune.common.base import Pruning
from compress_exp.methods.window import Rounds
from compress_exp.parallel import ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTROLS = ("random_mask", "reinitialized", "shuffled")


@dataclass(frozen=True, kw_only=True)
class LotteryTicket(Rounds, Pruning):
    """Find a sparse network within the pretrained one that trains as well.

    Attributes:
        rewind: share of a training to which the weights are rewound.
        control: null for the ticket, or what it has to beat.
    """

    origin: ClassVar[str] = "prune/lottery_ticket"

    rewind: float | None = 0.0
    control: str | None = None

    replaces_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rewind is None:
            raise FieldError("rewind", "null is not allowed, a number from 0 is; prune/iterative does not rewind")
        if self.control is not None and self.control not in CONTROLS:
            raise FieldError("control", f"{self.control!r} is not allowed; null, {', '.join(CONTROLS)} are")

    @property
    def starts_from(self) -> str:
        """The pretrained model, not the baseline."""
        return "pretrained"

    def check(self, facts: Facts) -> Facts:
        """It begins before the baseline was trained, so nothing can come before it.

        Raises:
            FieldError: it is not the first stage.
        """
        if not facts.first:
            raise FieldError("", f"{self.name} starts from the pretrained weights; put it first")
        return super().check(facts)

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """The pretrained model, with masks."""
        return super().insert(context.pretrained().to(context.device), spec, context)  # type: ignore[arg-type]

    def rewound(self, work: Work) -> None:
        """Before the final training, what the control changes."""
        if work.progress < 1.0 or self.control is None:
            return
        seed = ranks.from_zero(int(torch.randint(2**31, ())))
        generator = torch.Generator().manual_seed(seed)
        if self.control == "random_mask":
            for _, mask in owned(work.model, self.name, Mask):
                mask.factor.copy_(permuted(mask.factor, generator))
        elif self.control == "shuffled":
            for weight in trained(work.model).values():
                weight.copy_(permuted(weight, generator))
        else:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                fresh = trained(type(work.model)(work.model.config))
            for name, weight in trained(work.model).items():
                if name in fresh:  # adapters are not
                    weight.copy_(fresh[name])


def permuted(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The same entries in another order."""
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].view_as(tensor)

"""All losses of a stage as one module, built after seeding, and the means of their terms over all processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compress_exp.losses.base import Loss, Outputs, Term
from compress_exp.parallel import ranks, seeds

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Criteria(nn.Module):
    """The sum of several losses.

    Args:
        losses: by the names that they have in the configuration.
        student: the model in training.
        teacher: None where no loss asks one, or where no single model answers.
        seed: of what criteria draw, each from a stream of its own.
    """

    def __init__(
        self, losses: Mapping[str, Loss], student: PreTrainedModel, teacher: PreTrainedModel | None, seed: int
    ) -> None:
        super().__init__()
        self.weights = {name: loss.weight for name, loss in losses.items()}
        self.needs = frozenset().union(*(loss.needs for loss in losses.values()))
        made = {}
        for name, loss in losses.items():
            with torch.random.fork_rng():
                torch.manual_seed(seeds.derived(seed, "criterion", name))
                made[name] = loss.criterion(student, teacher)
        self.parts = nn.ModuleDict(made)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """The weighted mean of every term; with several losses, terms are called by their loss too."""
        terms: dict[str, Term] = {}
        for name, part in self.parts.items():
            for term, found in part(student, teacher, labels).items():
                own = term if len(self.parts) == 1 else f"{name}_{term}"
                terms[own] = Term(self.weights[name] * found.total, found.count)
        return means(terms)


def means(terms: Mapping[str, Term]) -> dict[str, Tensor]:
    """Every term over its count; over several processes so that their mean is the mean over what all of them have."""
    if not terms:
        return {}
    device = next(iter(terms.values())).total.device
    counts = ranks.all_mean(torch.tensor([float(term.count) for term in terms.values()], device=device))
    return {name: term.total / count for (name, term), count in zip(terms.items(), counts.clamp(min=1e-9), strict=True)}

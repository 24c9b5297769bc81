"""Soft movement pruning (Sanh, Wolf & Rush 2020, arXiv:2005.07683): keep the weights whose score passes a threshold.

M = 1[σ(S) > τ] with the scores S learned as in movement pruning, and a penalty λ·Σ σ(S) / n that pulls them below, n
being the 85 million weights of BERT-base's blocks, so that a strength presses on each weight alike whatever the model.
τ and λ rise together by the cubic schedule, τ to 0.1. Every layer finds its own sparsity, of at most 99.5 %; the total
is a result: a score passes τ = 0.1 at −2.2, which takes at least 220 steps at the default rate of 0.01.
Defaults: λ = 400 and τ = 0.1 at 80 % of the training, from 10 %.
Cost: a float32 score with Adam's two moments for every weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from compress_exp.config.checks import check_number
from compress_exp.layers.weights import original
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import Mask, owned
from compress_exp.methods.prune.common.penalty import BERT_BASE, PenaltyPruning
from compress_exp.methods.prune.common.ranking import smallest
from compress_exp.methods.prune.movement import MovementGate, warn_of_standstill
from compress_exp.methods.schedules import sparsity_at
from compress_exp.methods.select import Target
from compress_exp.methods.window import Window

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOOR = 0.005


@dataclass(frozen=True, kw_only=True)
class SoftMovementPruning(Window, PenaltyPruning):
    """Mask by a threshold on learned scores.

    Attributes:
        threshold: τ at the end, in [0, 1); scores start at σ(0) = 0.5.
        score_learning_rate: of the scores, which follow the same warm-up and decay as the weights.
    """

    origin: ClassVar[str] = "prune/soft_movement"

    strength: float = 400.0
    threshold: float = 0.1
    score_learning_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("threshold", self.threshold, 0, 0.999)
        check_number("score_learning_rate", self.score_learning_rate, 0)

    def gate(self, target: Target, index: int, context: Context) -> Mask:
        """Scores of zero."""
        return MovementGate(original(target.modules[0]))

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Gate every selected weight."""
        model = super().insert(model, spec, context)
        warn_of_standstill(self, owned(model, self.name, MovementGate), context.steps)
        return model

    def importance(self, module: nn.Module, gate: Mask) -> Tensor:
        """The scores."""
        assert isinstance(gate, MovementGate)
        return gate.scores.detach()

    def parameter_groups(self, work: Work) -> list[dict[str, Any]]:
        """The scores."""
        scores = [gate.scores for _, gate in owned(work.model, self.name, MovementGate)]
        return [{"params": scores, "lr": self.score_learning_rate, "weight_decay": 0.0}]

    def penalty(self, work: Work) -> Tensor:
        """λ·Σ σ(S) / n."""
        sums = [gate.scores.sigmoid().sum() for _, gate in owned(work.model, self.name, MovementGate)]
        strength = sparsity_at(work.progress, self.strength, "cubic")
        return strength * torch.stack(sums).sum() / BERT_BASE

    def step(self, work: Work) -> None:
        """Mask what is at or below the threshold of now."""
        threshold = sparsity_at(work.progress, self.threshold, "cubic")
        for _, gate in owned(work.model, self.name, MovementGate):
            above = gate.scores.sigmoid() > threshold
            least = math.ceil(FLOOR * above.numel())
            gate.factor.copy_(above if int(above.sum()) >= least else ~smallest(gate.scores, above.numel() - least))

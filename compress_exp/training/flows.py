"""The named flows: what a stage of each kind checks, and what it does to the course of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from compress_exp.config.checks import UserError
from compress_exp.methods.base import Method
from compress_exp.methods.parametrized import trained
from compress_exp.methods.quant.fake import FakeQuantInput
from compress_exp.training.module import CompressionModule


class DistillationModule(CompressionModule):
    """A student beside a frozen teacher (none for the control `distill/hard`)."""

    def curves(self, student: Tensor, teacher: Mapping[str, Any]) -> dict[str, Tensor]:
        """The share of positions at which student and teacher say the same."""
        if "logits" not in teacher or student.shape[-1] == 1:
            return {}
        return {"agreement": (student.argmax(-1) == teacher["logits"].argmax(-1)).float().mean()}


class PruneFinetuneModule(CompressionModule):
    """Prune, then finetune, once or in rounds.

    With N > 1 rounds the progress is held at r/N from the first step of round r: the cut comes first, the rest of the
    round finetunes, and the learning rate starts again with each round. With `rewind` round r trains first, is cut at
    its end, and goes back to the weights of an early step of the first round, with a fresh optimizer; one more
    training follows the last cut (Frankle & Carbin 2019, arXiv:1803.03635; Renda et al. 2020, arXiv:2003.02389).
    """

    early: dict[str, Tensor]

    @property
    def leader(self) -> Method:
        """The one method that sets rounds, or any."""
        return max(self.methods, key=lambda method: method.trainings)

    @property
    def rounds(self) -> int:
        """How often the budget is spent."""
        return self.leader.trainings

    def progress(self, step: int) -> float:
        """(step + 1) / steps; in rounds r/N through round r, and with rewinding (r − 1)/N until it is cut."""
        if self.leader.rewind is not None:
            return (step // self.steps) / self.leader.rounds
        if self.leader.rounds > 1:
            return (step // self.steps + 1) / self.leader.rounds
        return min(1.0, (step + 1) / self.steps)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """As always; the weights to rewind to are kept before the step that they belong to."""
        if self.leader.rewind is not None and self.global_step == int(self.leader.rewind * self.steps):
            self.early = {name: weight.detach().clone() for name, weight in trained(self.model).items()}
        return super().training_step(batch, batch_index)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """As always; at the end of a round that is to be rewound, cut and go back."""
        done = self.global_step + 1
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.leader.rewind is None or done % self.steps or done == self.total_steps:
            return
        cuts = done // self.steps
        with torch.no_grad():
            for method in self.methods:
                method.step(self.model, cuts / self.leader.rounds)
            for name, weight in trained(self.model).items():
                weight.copy_(self.early[name])
            for method in self.methods:
                method.rewound(self.model, cuts == self.leader.rounds)
        optimizer.state.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With the weights to rewind to."""
        super().on_save_checkpoint(checkpoint)
        if self.leader.rewind is not None:
            checkpoint["early"] = getattr(self, "early", {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With the weights to rewind to."""
        super().on_load_checkpoint(checkpoint)
        self.early = checkpoint.get("early", {})


class QATModule(CompressionModule):
    """Training on the grid that is deployed."""

    def on_fit_start(self) -> None:
        """Every input range must have seen data."""
        super().on_fit_start()
        quantizers = [module for module in self.model.modules() if isinstance(module, FakeQuantInput)]
        if any(int(quantizer.seen) == 0 for quantizer in quantizers):
            raise UserError("method.quant.calibration: some layers saw no data; raise it, or exclude them by select")


def flow_of(methods: Sequence[Method]) -> type[CompressionModule]:
    """The flow of a stage: pruning decides before quantization, quantization before distillation."""
    families = {method.family for method in methods}
    flows = (("prune", PruneFinetuneModule), ("quant", QATModule), ("distill", DistillationModule))
    return next((flow for family, flow in flows if family in families), CompressionModule)

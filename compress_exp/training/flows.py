"""The named flows: what a stage of each kind checks, and what it does to the course of training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from compress_exp.config import UserError
from compress_exp.methods.base import Method
from compress_exp.methods.parametrized import Gate
from compress_exp.methods.quant.fake import FakeQuantInput
from compress_exp.training.module import CompressionModule


class DistillationModule(CompressionModule):
    """A student beside a frozen teacher (none for the control `distill/hard`)."""

    def curves(self, student: Tensor, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """The share of positions at which student and teacher say the same."""
        if "logits" not in teacher or student.shape[-1] == 1:
            return {}
        return {"agreement": (student.argmax(-1) == teacher["logits"].argmax(-1)).float().mean()}


class PruneFinetuneModule(CompressionModule):
    """Prune, then finetune, once or in rounds.

    With N > 1 rounds the progress is held at r/N from the first step of round r: the cut comes first, the rest of the
    round finetunes, and the learning rate starts again with each round.
    """

    @property
    def rounds(self) -> int:
        """The rounds of the one method that sets them."""
        return max(method.rounds for method in self.methods)

    def progress(self, step: int) -> float:
        """(step + 1) / steps, or r/N through round r."""
        if self.rounds == 1:
            return super().progress(step)
        return (step // self.steps + 1) / self.rounds

    def on_fit_start(self) -> None:
        """There must be something to prune."""
        super().on_fit_start()
        shrunk = any(method.shrinks for method in self.methods)
        if not shrunk and not any(isinstance(module, Gate) for module in self.model.modules()):
            raise UserError("method.prune.select: no prunable weight matched")


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

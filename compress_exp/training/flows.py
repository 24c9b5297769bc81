"""The usual courses under names of their own, for notebooks: each refuses to train what it is not for."""

from __future__ import annotations

from compress_exp.config.checks import UserError
from compress_exp.training.module import CompressionModule


class DistillationModule(CompressionModule):
    """A student beside a frozen teacher (none for the control `distill/hard`)."""

    def on_fit_start(self) -> None:
        """It has a method of the family `distill`."""
        super().on_fit_start()
        require(self, "distill")


class PruneFinetuneModule(CompressionModule):
    """Prune, then finetune, once or in the rounds of its pruning method."""

    def on_fit_start(self) -> None:
        """It has a method of the family `prune`."""
        super().on_fit_start()
        require(self, "prune")


class QATModule(CompressionModule):
    """Quantization-aware training: on the grid that is deployed."""

    def on_fit_start(self) -> None:
        """It has a method of the family `quant`."""
        super().on_fit_start()
        require(self, "quant")


def require(module: CompressionModule, family: str) -> None:
    """Refuse to train without a method of a family."""
    if all(method.family != family for method in module.methods):
        names = ", ".join(method.name for method in module.methods) or "no method"
        raise UserError(f"train: {type(module).__name__} is for methods of family {family}, and this one has {names}")

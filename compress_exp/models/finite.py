"""NaN and infinity, found where they arise: argmax, ranking and rounding turn them into numbers like any other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress_exp.config.checks import UserError


def nonfinite(
    tensor: Tensor,  # any shape and type
    entries: str = "entries",
) -> str | None:
    """What of a tensor is not finite, such as "NaN in 3 of 64 entries"; None where nothing is.

    Args:
        tensor: is looked at.
        entries: what its entries are called; "rows" counts those of the first axis that hold such an entry.
    """
    tensor = tensor.detach()
    # Both ends are NaN if anything is; a mask of all entries is made only where it is needed.
    if not tensor.is_floating_point() or not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all()):
        return None
    wrong = ~tensor.isfinite()
    wrong = wrong.flatten(1).any(1) if entries == "rows" and tensor.dim() > 1 else wrong.flatten()
    return f"{'NaN' if bool(tensor.isnan().any()) else 'infinity'} in {int(wrong.sum())} of {len(wrong)} {entries}"


def finite_outputs(
    logits: Tensor,  # (batch, …)
    what: str,
) -> Tensor:
    """The outputs of a model for a batch, if they are numbers.

    Raises:
        UserError: they are not; `what` is said to have given them.
    """
    if (wrong := nonfinite(logits, "rows")) is not None:
        told = f"its outputs are not finite, {wrong} of a batch"
        raise UserError(f"{what}: {told}; give other weights, or lower train.learning_rate of what made them")
    return logits


def nonfinite_weight(model: nn.Module) -> str | None:
    """The first stored tensor of a model that is not finite: its name and what is wrong; None where there is none."""
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and (told := nonfinite(tensor)) is not None:
            return f"{name} ({told})"
    return None

"""What the gradients of the task's loss say about weights, on calibration rows, before anything trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from compress_exp.config.checks import FieldError
from compress_exp.layers.weights import original
from compress_exp.losses.base import Term
from compress_exp.losses.criteria import means
from compress_exp.losses.task import hard_loss
from compress_exp.methods.calibration import evaluating
from compress_exp.methods.context import Context
from compress_exp.methods.select import Target
from compress_exp.models.finite import nonfinite
from compress_exp.models.forward import forward_outputs
from compress_exp.parallel import ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def mean_over_batches(
    model: PreTrainedModel,
    chosen: Sequence[Target],
    context: Context,
    count: int,
    statistic: Callable[[Tensor, Tensor], Tensor],
) -> list[Tensor]:
    """The mean over batches of a function of each weight's gradient g and its value w, without dropout.

    Args:
        model: in any mode; evaluated, and given back as it was.
        chosen: the weights.
        context: gives task and batches of 32 training rows; several ranks share the rows of each.
        count: batches.
        statistic: (g, w) -> a tensor of their shape.

    Returns:
        One tensor per target, in its weight's shape.

    Raises:
        FieldError: a gradient is not finite.
    """
    weights = [original(target.modules[0]) for target in chosen]
    sums = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
    batches = context.calibration(count)
    for batch in batches:
        with evaluating(model), torch.enable_grad(), parametrize.cached():
            logits, labels = context.task.targets(forward_outputs(model, batch, context.task.outputs), batch)
            loss = means({"hard": Term(hard_loss(logits, labels), len(labels))})["hard"]  # of all ranks' positions
            gradients = torch.autograd.grad(loss, weights)
        for total, gradient, weight in zip(sums, gradients, weights, strict=True):
            total += statistic(ranks.all_mean(gradient), weight.detach()) / len(batches)
    for target, total in zip(chosen, sums, strict=True):
        if (told := nonfinite(total)) is not None:
            raise FieldError("", f"{target.names[0]}: what gradients say is not finite, {told}; give other weights")
    return sums

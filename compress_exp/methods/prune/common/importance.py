"""What heads, neurons and layers do for the task, on calibration rows, before anything trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress_exp.config.checks import FieldError
from compress_exp.layers.slices import Slice
from compress_exp.losses.task import hard_loss
from compress_exp.methods.calibration import decoder_positions, evaluating, source_positions
from compress_exp.methods.context import Context
from compress_exp.models.families.base import Family
from compress_exp.models.finite import nonfinite
from compress_exp.models.forward import forward_outputs
from compress_exp.parallel import ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def gate_gradients(
    model: PreTrainedModel, parts: Sequence[Slice], context: Context, count: int
) -> list[Tensor]:  # (units of a part,) each
    """E|∂L/∂ξ|, where ξ = 1 multiplies what a unit hands to the projection out of it (Michel et al. 2019).

    L is a row's loss, summed over its positions. By the chain rule ∂L/∂ξ = Σ a·∂L/∂a over a unit's activations a in
    that row; its absolute value is taken row by row, then averaged. A part that serves several layers has one ξ for
    all of them.

    Args:
        model: in any mode; evaluated, and given back as it was.
        parts: heads or neurons.
        context: gives task and batches of 32 training rows.
        count: batches.
    """
    sums = [torch.zeros(part.count, dtype=torch.float64, device=context.device) for part in parts]
    rows = 0
    for batch in context.calibration(count):
        size = len(batch["input_ids"])
        gates = [torch.ones(size, part.count, device=context.device, requires_grad=True) for part in parts]
        handles = [_multiply(part.output, gate) for part, gate in zip(parts, gates, strict=True)]
        try:
            with evaluating(model), torch.enable_grad():
                logits, labels = context.task.targets(forward_outputs(model, batch, context.task.outputs), batch)
                # Of the sum, so that no row weighs less for its neighbours; a rank's share may hold no position.
                loss = hard_loss(logits, labels)
                gradients = torch.autograd.grad(loss, gates)
        finally:
            for handle in handles:
                handle.remove()
        rows += size
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient.abs().sum(0, dtype=torch.float64)
    seen = ranks.all_sum(torch.tensor(float(rows), device=context.device))
    return [ranks.all_sum(total) / seen for total in sums]


def _multiply(projection: nn.Module, gate: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0].unflatten(-1, (gate.shape[1], -1))
        return ((hidden * gate[:, None, :, None]).flatten(-2), *inputs[1:])

    return projection.register_forward_pre_hook(hook)


def normalised(scores: Sequence[Tensor]) -> list[Tensor]:
    """Scores of each layer divided by their ℓ2 norm, so that layers can be compared."""
    return [score / score.norm().clamp(min=torch.finfo(score.dtype).tiny) for score in scores]


def weight_norms(part: Slice) -> Tensor:  # (units,)
    """The product of the ℓ2 norms of a unit's weights in every projection into the part and out of it."""
    inputs, output = part.matrices()
    product = output.double().norm(dim=0)
    for matrix in inputs:
        product = product * matrix.double().norm(dim=1)
    return product


def block_influence(
    before: Tensor,  # (tokens, width)
    after: Tensor,  # (tokens, width)
) -> Tensor:  # (tokens,)
    """1 − cos of each token's hidden state before and after a block (ShortGPT: Men et al. 2024, arXiv:2403.03853)."""
    return 1.0 - functional.cosine_similarity(before.double(), after.double(), dim=-1)


def influences(model: PreTrainedModel, family: Family, context: Context, count: int) -> dict[str, list[float]]:
    """The mean block influence of every layer of every stack, over tokens that are not padding.

    Returns:
        For each stack one number in [0, 2] a layer; a stack of one shared block is left out.

    Raises:
        FieldError: a hidden state is not finite.
    """
    places = {
        name: (stack.name, int(name.rpartition(".")[2]))
        for name, _ in model.named_modules()
        if (stack := family.stack_of(f"{name}.")) is not None and family.block_of(f"{name}.") == name
        if not stack.shared
    }
    sums = {place: torch.zeros(2, dtype=torch.float64, device=context.device) for place in places.values()}
    for batch in context.calibration(count):
        source = source_positions(batch)
        masks = {"encoder": source, "decoder": decoder_positions(batch) if len(family.stacks) > 1 else source}
        handles = [
            model.get_submodule(name).register_forward_hook(_observe(sums[place], masks[place[0]]), with_kwargs=True)
            for name, place in places.items()
        ]
        try:
            with evaluating(model), torch.no_grad():
                forward_outputs(model, batch, ())
        finally:
            for handle in handles:
                handle.remove()
    found: dict[str, list[float]] = {}
    for (stack_name, layer), total in sorted(sums.items()):
        total = ranks.all_sum(total)
        if (told := nonfinite(total)) is not None:
            raise FieldError(
                "", f"what layer {layer} of the {stack_name} changes is not finite, {told}; give other weights"
            )
        found.setdefault(stack_name, []).append(float(total[0] / total[1]))
    return found


def _observe(total: Tensor, mask: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        before = inputs[0] if inputs else named["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        total[0] += block_influence(before[mask], after[mask]).sum()
        total[1] += mask.sum()

    return hook

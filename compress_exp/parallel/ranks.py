"""The processes of one training: who this one is, and numbers they share; one process shares nothing.

Every rank holds the whole model and sees its own rows of each batch. What is computed from rows is reduced with the
functions below; what is computed from weights or gradients is equal everywhere already. Rank 0 writes, others read.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed
from torch.distributed import ReduceOp


def rank() -> int:
    """The number of this process; 0 is the job's own."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def own_rows(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """This rank's rows of a collated batch, padded as the whole batch is; all of them where there are too few to share.

    Args:
        batch: tensors with rows first.
    """
    count = world()
    if count == 1 or min(len(tensor) for tensor in batch.values()) < count:
        return batch
    return {name: tensor[rank() :: count] for name, tensor in batch.items()}


def all_min(tensor: Tensor) -> Tensor:
    """Elementwise the smallest over the ranks."""
    return _reduced(tensor, ReduceOp.MIN)


def all_max(tensor: Tensor) -> Tensor:
    """Elementwise the largest over the ranks."""
    return _reduced(tensor, ReduceOp.MAX)


def all_sum(tensor: Tensor) -> Tensor:
    """Elementwise the sum over the ranks, for counts and importances."""
    return _reduced(tensor, ReduceOp.SUM)


def all_mean(tensor: Tensor) -> Tensor:
    """Elementwise the mean over the ranks."""
    return tensor if world() == 1 else all_sum(tensor) / world()


def mean_of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named numbers, each the mean over the ranks; every rank gives the same names."""
    if world() == 1 or not values:
        return dict(values)
    means = all_mean(torch.stack([value.float() for value in values.values()]))
    return dict(zip(values, means.unbind(), strict=True))


def from_zero(number: int) -> int:
    """The number that rank 0 gives."""
    if world() == 1:
        return number
    shared = torch.tensor(number, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.broadcast(shared, src=0)
    return int(shared)


def _reduced(tensor: Tensor, operation: ReduceOp.RedOpType) -> Tensor:
    if world() == 1:
        return tensor
    reduced = tensor.clone()
    distributed.all_reduce(reduced, operation)
    return reduced

"""2:4 weights on the sparse tensor cores of a GPU (Mishra et al. 2021, arXiv:2104.08378).

PyTorch's `to_sparse_semi_structured` keeps two of every four inputs with their places; cuSPARSELt multiplies them with
half the work. It takes float16 and bfloat16 weights of a Linear with sides that are multiples of 64, on GPUs of compute
capability 8 and more. GPT-2's Conv1D holds its inputs along the other axis and stays dense.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

from compress_exp.layers.surgery import pruned_modules

HALF = (torch.float16, torch.bfloat16)
SIDE = 64
CAPABILITY = (8, 0)


def kernels_available() -> bool:
    """Whether this process has a GPU with sparse tensor cores and a PyTorch that can use them."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < CAPABILITY:
        return False
    return bool(torch.backends.cusparselt.is_available())


def is_two_of_four(
    weight: Tensor,  # (out, in)
) -> bool:
    """Whether the sparse kernels take a weight: half precision, sides of 64, at most two of every four inputs left."""
    if isinstance(weight, SparseSemiStructuredTensor) or weight.dtype not in HALF:
        return False
    return not any(side % SIDE for side in weight.shape) and int((weight != 0).view(-1, 4).sum(1).max()) <= 2


def use_sparse_kernels(model: nn.Module) -> int:
    """Hand every pruned 2:4 weight of a model on a GPU to its sparse tensor cores; how many there were."""
    taken = [
        module for _, module in pruned_modules(model) if isinstance(module, nn.Linear) and is_two_of_four(module.weight)
    ]
    for module in taken:
        sparse = to_sparse_semi_structured(module.weight.detach())
        module.weight = nn.Parameter(sparse, requires_grad=False)
    return len(taken)

"""Whether bfloat16 is multiplied in hardware: where it is not, PyTorch computes the same numbers, only slowly."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx_ne_convert")
WITHOUT = ("AVX512_CORE", "AVX512_CORE_VNNI")


@functools.cache
def kernels_available() -> bool:
    """Whether matrices in bfloat16 are multiplied by instructions of this CPU, as far as oneDNN is allowed to."""
    try:
        library = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:  # PyTorch without oneDNN
        library = False
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return multiplies(library, torch.cpu.get_capabilities(), limit)


def multiplies(library: bool, capabilities: Mapping[str, Any], limit: str) -> bool:
    """Whether kernels of oneDNN use instructions for bfloat16.

    On x86 the library says yes for every AVX-512, where it emulates bfloat16 unless the instructions are there too (a
    training step is then 2 to 3 times as long as in float32; without AVX-512, over 20 times). On ARM it asks for them.

    Args:
        library: what oneDNN says.
        capabilities: of the CPU, as `torch.cpu.get_capabilities` names them.
        limit: the instruction set that `ONEDNN_MAX_CPU_ISA` allows; empty for all.
    """
    if capabilities.get("architecture") != "x86_64":
        return library
    return library and limit.upper() not in WITHOUT and any(capabilities.get(name) for name in INSTRUCTIONS)


def rounded(model: PreTrainedModel) -> PreTrainedModel:
    """Round what is stored to bfloat16; what is not (frequencies of rotary positions) is computed anew when loaded."""
    stored = model.state_dict().keys()
    computed = {name: buffer for name, buffer in model.named_buffers() if name not in stored}
    model = model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    for name, buffer in computed.items():
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, buffer)
    return model

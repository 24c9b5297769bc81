from __future__ import annotations

import os
import subprocess
import sys

import pytest

from compress_exp.layers.bf16 import multiplies

X86 = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.mark.parametrize(
    ("library", "flags", "limit", "expected"),
    [
        (False, {"avx512_f": False}, "", False),  # AVX2 alone
        (True, {}, "", False),  # AVX-512 emulates
        (True, {"avx512_bf16": True}, "", True),
        (True, {"amx_bf16": True, "avx512_bf16": True}, "ALL", True),
        (True, {"amx_bf16": True, "avx512_bf16": True}, "AVX512_CORE_BF16", True),
        (True, {"amx_bf16": True, "avx512_bf16": True}, "avx512_core_vnni", False),
        (True, {"amx_bf16": True, "avx512_bf16": True}, "AVX512_CORE", False),
        (False, {"amx_bf16": True, "avx512_bf16": True}, "AVX2", False),
        (True, {"architecture": "aarch64"}, "", True),
        (False, {"architecture": "arm64"}, "", False),
    ],
)
def test_the_library_and_the_instructions_have_to_agree(library, flags, limit, expected):
    assert multiplies(library, X86 | flags, limit) is expected


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize("limit", ["AVX2", "AVX512_CORE"])
def test_a_limit_on_x86_takes_them_away(name, limit):
    """On any x86 there are no instructions for bfloat16 within these limits; elsewhere they mean nothing."""
    code = "import platform; from compress_exp.layers.bf16 import kernels_available as there;"
    code += "print(there() and platform.machine() == 'x86_64')"
    environment = {**os.environ, name: limit}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

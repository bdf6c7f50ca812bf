"""The Triton kernel compiles for every generation of cards that is served.

Triton's compiler and ptxas come in the package `triton`; no card is needed. In a process of its
own, since Triton decides at import whether it interprets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest
import torch

from model.config.presets import preset
from model.synchronizer.geometry import Geometry

# Ampere, Hopper, and Blackwell for workstations.
CAPABILITIES = (80, 90, 120)
TYPES = (torch.float32, torch.bfloat16)


def compile_kernel(capability: int, dtype: torch.dtype, geometry: Geometry) -> int:
    """Bytes of the machine code for one generation of cards, and features of one type."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from model.synchronizer.kernels.triton import _sample_kernel

    constants = {
        "HEADS": geometry.num_heads,
        "POINTS": geometry.num_points,
        "LEVELS": len(geometry.sides),
        "TABLES": geometry.num_tables,
        "POINTS_PADDED": triton.next_power_of_2(geometry.num_points),
        "CHANNELS_PADDED": triton.next_power_of_2(geometry.channels),
    }
    floats = dict.fromkeys(("query_ptr", "relative_ptr", "reference_ptr", "out_ptr"), "*fp32")
    features = {"features_ptr": "*bf16" if dtype == torch.bfloat16 else "*fp32"}
    kinds = floats | features | dict.fromkeys(constants, "constexpr")
    signature = {
        name: kinds.get(name, "*i64" if name.endswith("_ptr") else "i32")
        for name in _sample_kernel.arg_names
    }
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(ASTSource(_sample_kernel, signature, constants), target=target)
    return len(compiled.asm["cubin"])


def print_sizes() -> None:
    geometry = Geometry.of_text(preset("13b"))
    sizes = {
        f"{capability} {dtype}": compile_kernel(capability, dtype, geometry)
        for capability in CAPABILITIES
        for dtype in TYPES
    }
    print(json.dumps(sizes))  # noqa: T201


@cache
def compiled() -> dict[str, int]:
    code = f"from {__name__} import print_sizes; print_sizes()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    sizes: dict[str, int] = json.loads(result.stdout.splitlines()[-1])
    return sizes


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_it_compiles_at_the_published_sizes(capability: int, dtype: torch.dtype) -> None:
    assert compiled()[f"{capability} {dtype}"] > 1000

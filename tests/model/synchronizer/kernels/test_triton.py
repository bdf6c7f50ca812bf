"""The Triton kernel, run by Triton's interpreter on the CPU, equals the reference.

In a process of its own: whether Triton interprets is decided when it is imported. On a GPU, the
test marked `gpu` runs the compiled kernel.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.model.synchronizer.kernels import paged

_TOLERANCE = 2e-6


def compare(name: str, device: str, dtype: torch.dtype, num_tokens: int) -> float:
    """Largest difference between kernel and reference."""
    from model.synchronizer.kernels.gather import sample
    from model.synchronizer.kernels.triton import sample_triton

    geometry = paged.GEOMETRIES[name]
    s = paged.step(geometry, num_tokens=num_tokens)
    generator = torch.Generator().manual_seed(1)
    numbers = geometry.num_predicted
    query_TX = torch.randn(num_tokens, numbers, generator=generator).to(device)
    relative_RX = torch.randn(geometry.num_relative, numbers, generator=generator).to(device)
    cache_NW = s.cache_NW.to(device, dtype)
    sight = paged.on(s.sight, device)
    ours = sample_triton(query_TX, relative_RX, cache_NW, sight, geometry)
    reference = sample(query_TX, relative_RX, cache_NW.float(), sight, geometry)
    return float((ours - reference).abs().max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_interpreted_kernel_equals_the_reference(dtype: str) -> None:
    code = (
        "import torch; from tests.model.synchronizer.kernels.test_triton import compare;"
        f"print(*(compare(n, 'cpu', torch.{dtype}, 5)"
        " for n in ('21 vectors a token', 'padding in the last token')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    differences = [float(word) for word in result.stdout.split()[-2:]]
    assert max(differences) < _TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("name", paged.GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernel_equals_the_reference(name: str, dtype: torch.dtype) -> None:
    assert compare(name, "cuda", dtype, 23) < 1e-4


@pytest.mark.gpu
def test_compiled_kernel_can_be_captured() -> None:
    """Replayed as a CUDA graph it computes the same."""
    from model.synchronizer.kernels.triton import sample_triton

    geometry = paged.GEOMETRIES["21 vectors a token"]
    s = paged.step(geometry)
    sight = paged.on(s.sight, "cuda")
    numbers = geometry.num_predicted
    query_TX = torch.randn(len(s.sight.request_T), numbers, device="cuda")
    relative_RX = torch.randn(geometry.num_relative, numbers, device="cuda")
    cache_NW = s.cache_NW.cuda()
    expected = sample_triton(query_TX, relative_RX, cache_NW, sight, geometry)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours = sample_triton(query_TX, relative_RX, cache_NW, sight, geometry)
    ours.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(ours, expected)

"""Every kernel, for both of its users, equals the plain synchronizer.

The language model reads the paged features of many images, the U-Net the dense maps of one.
`GridSampling` reads dense maps only; all other kernels serve both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model.config.schema import SynchronizerConfig
from model.synchronizer.folding import FoldedBlock, fold_layer
from model.synchronizer.geometry import Geometry
from model.synchronizer.kernels.choice import Kernel, choose_kernel
from model.synchronizer.kernels.grid import GridSampling
from model.synchronizer.maps import MapSampling, PagedMaps
from model.synchronizer.unet_synchronizer import SynchronizerBlock
from tests.model.synchronizer.kernels import paged

CPP = pytest.param("cpp", marks=pytest.mark.needs_compiler)
KERNELS = ("torch", "numba", CPP, "triton")
# Channels of a skip and of a head; the output projection comes first where heads are wider.
BLOCKS = {"narrow heads": (16, 8), "wide heads": (4, 12), "whole registers": (48, 32)}
_BUILT = Path(".build")  # The C++ kernel is compiled once per machine.


@cache
def kernel(kind: str, geometry: Geometry) -> Kernel:
    return choose_kernel(kind, geometry, torch.device("cpu"), torch.float32, _BUILT)


@torch.inference_mode()
def text_difference(kind: str, name: str) -> float:
    """A folded layer of the language model against the plain module, token by token."""
    geometry = paged.GEOMETRIES[name]
    num_tokens = 5 if kind == "triton" else 23  # Triton's interpreter is slow.
    made, s = paged.module(geometry), paged.step(geometry, num_tokens=num_tokens)
    weights = paged.official_names(made, geometry)
    folded = fold_layer(weights, geometry)
    query_TX = F.linear(s.query_TD, folded.query_XD, folded.query_bias_X)
    sampled_THY = kernel(kind, geometry)(query_TX, folded.relative_RX, s.cache_NW, s.sight)
    values_TV = torch.bmm(sampled_THY.transpose(0, 1), folded.value_HYd).transpose(0, 1).flatten(1)
    ours_TD = F.linear(values_TV, folded.output_DV, folded.output_bias_D)
    expected_TD = paged.expected(made, weights, s)
    assert torch.isfinite(expected_TD).all()
    return float((ours_TD - expected_TD).abs().max())


@torch.inference_mode()
def maps_difference(kind: str, name: str) -> float:
    """A folded block of the U-Net against the plain one: two images, one of them not visible."""
    channels, width = BLOCKS[name]
    config = SynchronizerConfig(n_heads=2, n_points=3, attn_dim=2 * width)
    torch.manual_seed(0)
    block = SynchronizerBlock(channels, 20, 4, (4, 2), 4, config)
    for parameter in block.parameters():
        parameter.copy_(torch.randn_like(parameter) / 2)
    sampling: MapSampling = (
        GridSampling() if kind == "grid" else PagedMaps(lambda geometry: kernel(kind, geometry))
    )
    folded = FoldedBlock(block, sampling)
    assert folded.early == (width > channels)
    features_B1VD, visible_B1 = torch.randn(2, 1, 20, 20), torch.tensor([[1.0], [0.0]])
    sample_NCHW = torch.randn(4, channels, 2, 3)
    ours = folded.attend(sample_NCHW, folded.project(features_B1VD), visible_B1)
    expected = block(sample_NCHW, features_B1VD, visible_B1)
    assert expected.abs().max() > 1
    return float((ours - expected).abs().max() / expected.abs().max())


def difference(user: str, kind: str, name: str) -> float:
    if kind == "triton":
        return _interpreted()[user][name]
    return {"text": text_difference, "maps": maps_difference}[user](kind, name)


@cache
def _interpreted() -> dict[str, dict[str, float]]:
    """All differences of the Triton kernel, which decides at import whether it is interpreted."""
    code = "from tests.model.synchronizer.kernels import test_parity as t; t.print_triton()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    differences: dict[str, dict[str, float]] = json.loads(result.stdout.splitlines()[-1])
    return differences


def print_triton() -> None:
    text = {name: text_difference("triton", name) for name in paged.GEOMETRIES}
    maps = {name: maps_difference("triton", name) for name in BLOCKS}
    print(json.dumps({"text": text, "maps": maps}))  # noqa: T201


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("name", paged.GEOMETRIES)
def test_the_language_model_reads_paged_features(kind: str, name: str) -> None:
    assert difference("text", kind, name) < 2e-5


@pytest.mark.parametrize("kind", [*KERNELS, "grid"])
@pytest.mark.parametrize("name", BLOCKS)
def test_the_unet_reads_dense_maps(kind: str, name: str) -> None:
    assert difference("maps", kind, name) < 2e-6


@pytest.mark.needs_compiler
@pytest.mark.parametrize("name", paged.GEOMETRIES)
@torch.inference_mode()
def test_cpp_takes_bfloat16_features(name: str) -> None:
    geometry = paged.GEOMETRIES[name]
    made, s = paged.module(geometry), paged.step(geometry)
    folded = fold_layer(paged.official_names(made, geometry), geometry)
    query_TX = F.linear(s.query_TD, folded.query_XD, folded.query_bias_X)
    rounded_NW = s.cache_NW.bfloat16()
    reference = kernel("torch", geometry)(query_TX, folded.relative_RX, rounded_NW.float(), s.sight)
    ours = kernel("cpp", geometry)(query_TX, folded.relative_RX, rounded_NW, s.sight)
    # Where the processor multiplies bfloat16, whole registers of channels have rounded shares.
    rounded = 2**-9 * 4 if geometry.channels >= 128 else 2e-5
    torch.testing.assert_close(ours[..., :-2], reference[..., :-2], atol=rounded, rtol=1e-5)
    torch.testing.assert_close(ours[..., -2:], reference[..., -2:], atol=2e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["torch", "numba", CPP])
def test_places_far_outside_and_no_images(kind: str) -> None:
    """Samples beyond all maps add nothing, not even the projection's bias."""
    geometry = paged.GEOMETRIES["21 vectors a token"]
    s = paged.step(geometry)
    query_TX = torch.zeros(23, geometry.num_predicted)
    query_TX[:, : geometry.num_offsets] = 1e9
    relative_RX = torch.zeros(geometry.num_relative, geometry.num_predicted)
    out_THY = kernel(kind, geometry)(query_TX, relative_RX, s.cache_NW, s.sight)
    sums_THC, ignored_TH, inside_TH = out_THY[..., :-2], out_THY[..., -2], out_THY[..., -1]
    assert (sums_THC == 0).all() and (inside_TH == 0).all()
    unseen_T = s.sight.base_T >= s.sight.count_T
    assert unseen_T.any() and (ignored_TH[unseen_T] == 1).all()

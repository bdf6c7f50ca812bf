"""Sampling from the paged cache, in each implementation, equals the plain synchronizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model.vllm_plugin import native
from model.vllm_plugin.folding import FoldedWeights, fold
from model.vllm_plugin.geometry import Geometry
from model.vllm_plugin.plan import StepPlan
from model.vllm_plugin.sampling import sample
from tests.model.vllm_plugin import paged

Sampler = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, StepPlan], torch.Tensor]


@pytest.fixture(scope="session")
def library_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("native")


def sampler(kind: str, geometry: Geometry, library_dir: Path) -> Sampler:
    if kind == "torch":
        return lambda *arguments: sample(*arguments, geometry)
    library = native.build(library_dir)
    assert library is not None, "these tests need a C++ compiler"
    return native.NativeSampler(library, geometry)


def run(folded: FoldedWeights, sampler: Sampler, s: paged.Step) -> torch.Tensor:
    query_TX = F.linear(s.query_TD, folded.query_XD, folded.query_bias_X)
    sampled_HTC = sampler(query_TX, folded.relative_RX, s.cache_NW, s.plan)
    values_TV = torch.bmm(sampled_HTC, folded.value_HCd).transpose(0, 1).flatten(1)
    return F.linear(values_TV, folded.output_DV, folded.output_bias_D)


@pytest.mark.parametrize("kind", ["torch", "cpp"])
@pytest.mark.parametrize("name", paged.GEOMETRIES)
@torch.inference_mode()
def test_equals_the_plain_module(kind: str, name: str, library_dir: Path) -> None:
    geometry = paged.GEOMETRIES[name]
    made, s = paged.module(geometry), paged.step(geometry)
    weights = paged.official_names(made, geometry)
    ours_TD = run(fold(weights, geometry), sampler(kind, geometry, library_dir), s)
    expected_TD = paged.expected(made, weights, s)
    assert torch.isfinite(expected_TD).all()
    torch.testing.assert_close(ours_TD, expected_TD, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", paged.GEOMETRIES)
@torch.inference_mode()
def test_fused_takes_bfloat16_features(name: str, library_dir: Path) -> None:
    geometry = paged.GEOMETRIES[name]
    made, s = paged.module(geometry), paged.step(geometry)
    folded = fold(paged.official_names(made, geometry), geometry)
    query_TX = F.linear(s.query_TD, folded.query_XD, folded.query_bias_X)
    rounded_NW = s.cache_NW.bfloat16()
    reference = sample(query_TX, folded.relative_RX, rounded_NW.float(), s.plan, geometry)
    fused = sampler("cpp", geometry, library_dir)
    ours = fused(query_TX, folded.relative_RX, rounded_NW, s.plan)
    # Where the processor multiplies bfloat16, whole registers of channels have rounded shares.
    rounded = 2**-9 * 4 if geometry.channels >= 128 else 2e-5
    torch.testing.assert_close(ours[..., :-2], reference[..., :-2], atol=rounded, rtol=1e-5)
    torch.testing.assert_close(ours[..., -2:], reference[..., -2:], atol=2e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["torch", "cpp"])
def test_places_far_outside_and_no_images(kind: str, library_dir: Path) -> None:
    """Samples beyond all maps add nothing, not even the projection's bias."""
    geometry = paged.GEOMETRIES["21 vectors a token"]
    s = paged.step(geometry)
    query_TX = torch.zeros(23, geometry.num_offsets + geometry.num_logits)
    query_TX[:, : geometry.num_offsets] = 1e9
    relative_RX = torch.zeros(geometry.num_relative, query_TX.shape[1])
    out_HTC = sampler(kind, geometry, library_dir)(query_TX, relative_RX, s.cache_NW, s.plan)
    assert (out_HTC[..., :-1] == 0).all()
    unseen_T = s.plan.base_T >= s.plan.count_T
    assert unseen_T.any() and (out_HTC[:, unseen_T, -1] == 1).all()

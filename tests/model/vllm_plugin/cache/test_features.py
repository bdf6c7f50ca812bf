from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from model.synchronizer.geometry import EXTRA
from model.vllm_plugin.cache.features import PagedImageFeatures
from tests.model.synchronizer.kernels import paged
from tests.model.vllm_plugin.cache.test_plan import paged_step

GEOMETRY = paged.GEOMETRIES["padding in the last token"]


def features(dtype: torch.dtype = torch.float32) -> PagedImageFeatures:
    settings = SimpleNamespace(
        model_config=SimpleNamespace(dtype=dtype),
        compilation_config=SimpleNamespace(static_forward_context={}),
        device_config=SimpleNamespace(device_type="cpu"),
        additional_config={"kernel": "torch"},
    )
    return PagedImageFeatures(settings, "features.7", GEOMETRY)


@pytest.fixture
def relative_RX() -> torch.Tensor:
    return torch.randn(GEOMETRY.num_relative, GEOMETRY.num_predicted)


def test_features_are_stored_in_the_slots_of_their_placeholders() -> None:
    made = features(torch.bfloat16)
    made.bind_kv_cache(torch.zeros(4, 1, 4, GEOMETRY.token_width, dtype=torch.bfloat16))
    _, metadata, _, _ = paged_step([0, 0, 0, 0])
    metadata.slot_mapping = torch.tensor([9, 4, 13, 2])
    features_MW = torch.randn(2, GEOMETRY.token_width)
    made.write_images(metadata, torch.tensor([3, 1]), features_MW)
    assert torch.equal(made.rows[[2, 4]], features_MW.bfloat16())
    assert made.rows.count_nonzero() == made.rows[[2, 4]].count_nonzero()


def test_nothing_is_sampled_before_there_is_a_cache(relative_RX: torch.Tensor) -> None:
    sampled = features().sample(torch.randn(5, GEOMETRY.num_predicted), relative_RX)
    assert sampled.shape == (5, GEOMETRY.num_heads, GEOMETRY.channels + EXTRA)
    assert not sampled.any()


@torch.inference_mode()
def test_padding_of_a_step_reads_nothing(relative_RX: torch.Tensor) -> None:
    made, s = features(), paged.step(GEOMETRY)
    made.bind_kv_cache(s.cache_NW)
    made.sight = s.sight
    query_TX = torch.randn(23, GEOMETRY.num_predicted)
    sampled = made.sample(query_TX, relative_RX)
    padded = made.sample(torch.cat((query_TX, torch.randn(4, len(query_TX[0])))), relative_RX)
    assert sampled.any() and torch.equal(padded[:23], sampled)
    assert not padded[23:].any()


@torch.inference_mode()
@pytest.mark.parametrize("num_padding", [0, 4])
def test_samples_have_the_type_of_their_queries(
    num_padding: int, relative_RX: torch.Tensor
) -> None:
    made, s = features(torch.bfloat16), paged.step(GEOMETRY)
    made.bind_kv_cache(s.cache_NW.bfloat16())
    made.sight = s.sight
    query_TX = torch.randn(23 + num_padding, GEOMETRY.num_predicted, dtype=torch.bfloat16)
    assert made.sample(query_TX, relative_RX.bfloat16()).dtype == torch.bfloat16

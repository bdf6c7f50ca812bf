from __future__ import annotations

import pytest
import torch

from model.synchronizer.geometry import Geometry
from model.synchronizer.kernels import numba
from model.synchronizer.kernels.grid import GridSampling
from model.synchronizer.maps import PagedMaps, default_sampling

GEOMETRY = Geometry.of_maps(2, 3, (4, 2), 4, 8)


def test_the_fused_kernel_is_taken_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert isinstance(default_sampling(cpu, torch.float32), PagedMaps)
    assert isinstance(default_sampling(cpu, torch.bfloat16), GridSampling)
    assert isinstance(default_sampling(torch.device("cuda"), torch.float32), GridSampling)
    monkeypatch.setattr(numba, "available", lambda: False)
    assert isinstance(default_sampling(cpu, torch.float32), GridSampling)


@torch.inference_mode()
def test_both_ways_of_reading_maps_agree() -> None:
    """Sums and ignored masses; rows of both guidance halves, one image of two not visible."""
    torch.manual_seed(0)
    values_BVHd = torch.randn(2, 20, 2, 8)
    predicted_NLK = torch.randn(4, 7, GEOMETRY.num_predicted) * 3
    reference_L2, visible_B = torch.rand(7, 2), torch.tensor([True, False])
    results = []
    for sampling in (GridSampling(), PagedMaps(numba.NumbaKernel)):
        values = sampling.arrange(values_BVHd)
        sampled = sampling.sample(GEOMETRY, values, predicted_NLK, reference_L2, visible_B)
        assert sampled.shape == (4, 7, 2, 8 + sampling.extra)
        results.append(sampled[..., :9])
    torch.testing.assert_close(results[0], results[1], atol=2e-6, rtol=1e-5)
    assert (results[0][1, ..., :8] == 0).all() and (results[0][3, ..., 8] == 1).all()


@torch.inference_mode()
def test_what_is_kept_between_steps_does_not_hide_a_change() -> None:
    """The same sizes again with other images in sight, reference points and predictions."""
    torch.manual_seed(0)
    grid, paged = GridSampling(), PagedMaps(numba.NumbaKernel)
    values_BVHd = torch.randn(2, 20, 2, 8)
    for visible in ([True, False], [False, True], [True, True]):
        step = (torch.randn(4, 7, GEOMETRY.num_predicted), torch.rand(7, 2), torch.tensor(visible))
        expected = grid.sample(GEOMETRY, grid.arrange(values_BVHd), *step)
        sampled = paged.sample(GEOMETRY, paged.arrange(values_BVHd), *step)
        torch.testing.assert_close(sampled[..., :9], expected[..., :9], atol=2e-6, rtol=1e-5)

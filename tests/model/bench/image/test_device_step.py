"""Steps of random weights, timed and compared, on a small model."""

from __future__ import annotations

import pytest
import torch

from model.bench.image.device_step import BASELINE, VARIANTS, DeviceSteps
from tests.model.engine.jobs import small_config


@pytest.fixture(scope="module")
def steps() -> DeviceSteps:
    return DeviceSteps(small_config(), torch.device("cpu"), (1, 2))


def test_our_step_agrees_with_the_published_one(steps: DeviceSteps) -> None:
    assert steps.variants() == [name for name in VARIANTS if name != "torch-graph"]
    for batch in (1, 2):
        published, ours = steps.measure(BASELINE, batch), steps.measure("torch", batch)
        assert published.difference < 1e-5
        assert 0 < ours.difference < 1e-4
        assert min(ours.ms, ours.tflops, ours.share_of_peak, ours.steps_per_s) > 0


def test_the_largest_kernels_are_named(steps: DeviceSteps) -> None:
    kernels = steps.kernels("torch", 1)
    assert len(kernels) == 10
    assert kernels[0]["share"] >= kernels[-1]["share"] > 0  # type: ignore[operator]
    assert steps.decode_ms(1) > 0
    assert steps.follows_its_inputs("torch", 1) == 0

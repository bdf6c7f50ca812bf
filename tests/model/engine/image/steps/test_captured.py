"""A recorded step follows its inputs, and gives way to the eager one where it can't be recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from model.engine.image.backends.eager import TorchBackend
from model.engine.image.loop import DenoisingLoop
from model.engine.image.steps.captured import CapturedStep
from model.image_decoder.unet.conditions import Conditions
from model.sampling_params import ImageParams
from tests.model.device.recorder import FakeGraphs
from tests.model.engine.jobs import (
    conditioning_image,
    drain,
    make_job,
    pixels_of,
)


@pytest.fixture(scope="module")
def eager(checkpoint: Path) -> TorchBackend:
    backend = TorchBackend(checkpoint, "cpu")
    backend.start()
    return backend


@pytest.fixture
def graphs() -> FakeGraphs:
    return FakeGraphs()


@pytest.fixture
def recorded(checkpoint: Path, graphs: FakeGraphs) -> Iterator[TorchBackend]:
    backend = TorchBackend(checkpoint, "cpu", warm_up=(1, 2), graphs=graphs)
    backend.start()
    yield backend
    backend.stop()


def images(backend: TorchBackend, *wanted: ImageParams) -> list[np.ndarray]:
    """Images of which each joins one step after the one before."""
    loop, outputs = DenoisingLoop(backend, 2**40, 2**20), []
    for seed, params in enumerate(wanted):
        job, items = make_job(seed, params, conditioning_image(seed) if seed else None)
        loop.submit(job)
        loop.turn()
        outputs.append(items)
    drain(loop, *outputs)
    return [pixels_of(items) for items in outputs]


def test_warm_up_records_the_buckets_asked_for(recorded: TorchBackend, graphs: FakeGraphs) -> None:
    assert [len(graph.output) for graph in graphs.recorded] == [2, 4]  # Both guidance halves.
    assert recorded.capabilities.notes[-1] == "eager, recorded"


def test_images_are_those_of_eager_steps(
    eager: TorchBackend, recorded: TorchBackend, graphs: FakeGraphs
) -> None:
    """Buckets that grow and shrink, other conditions in a bucket, other sizes, no guidance."""
    plain = ImageParams(num_inference_steps=4)
    kinds = [
        plain,
        plain,
        ImageParams(num_inference_steps=5, guidance_scale=1.0),
        ImageParams(num_inference_steps=3, width=24, height=16),
        plain,
    ]
    for ours, theirs in zip(images(recorded, *kinds), images(eager, *kinds), strict=True):
        assert np.abs(ours - theirs).max() <= 1
    assert all(graph.num_replays > 0 for graph in graphs.recorded)
    before = len(graphs.recorded)
    images(recorded, *kinds)
    assert len(graphs.recorded) == before  # Every shape is recorded once.


def test_a_step_that_cannot_be_recorded_runs_eagerly(
    checkpoint: Path, eager: TorchBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend = TorchBackend(checkpoint, "cpu", graphs=FakeGraphs("stream is capturing"))
    backend.start()
    assert "no CUDA graph of 1 images of 8x8" in caplog.text
    assert "stream is capturing" in caplog.text
    params = ImageParams(num_inference_steps=3)
    assert (images(backend, params)[0] == images(eager, params)[0]).all()
    assert caplog.text.count("no CUDA graph") == 1  # It is not tried again at every step.


def test_the_oldest_recordings_are_dropped(graphs: FakeGraphs) -> None:
    def step(latents: torch.Tensor, timesteps: torch.Tensor, _: Conditions) -> torch.Tensor:
        return latents * timesteps.view(-1, 1)

    captured, rows = CapturedStep(step, graphs, most=2), torch.ones(2, 1)
    conditions = Conditions((rows,), (rows,), (), (), rows)
    for width in (1, 2, 1, 3, 1):
        output = captured(torch.ones(2, width), torch.tensor([2.0, 3.0]), conditions)
        assert output.tolist() == [[2.0] * width, [3.0] * width]
    assert captured.num_recordings == 2
    assert len(graphs.recorded) == 3

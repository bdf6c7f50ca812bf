"""Compiled graphs draw the same images, and where they can't run PyTorch takes over."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from model.engine.image.backends.base import Backend, BackendUnavailable
from model.engine.image.backends.eager import TorchBackend
from model.engine.image.backends.onnxruntime import onnxruntime_backend
from model.engine.image.engine import BatchedImageEngine
from model.engine.image.loop import DenoisingLoop
from model.engine.image.options import ImageEngineOptions
from model.export.manifest import model_digest
from model.export.parity import ParityError
from model.sampling_params import ImageParams
from tests.model.engine.jobs import (
    conditioning_image,
    drain,
    make_job,
    pixels_of,
)

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def compiled(checkpoint: Path, engines: Path) -> Backend:
    backend = onnxruntime_backend(checkpoint, engines, 4)
    backend.start()
    return backend


def draw_three(backend: Backend) -> list[np.ndarray]:
    """Three images, of which one is not guided and one has no previous image."""
    loop, outputs = DenoisingLoop(backend, 2**40, 2**20), []
    for seed, scale in enumerate((7.5, 1.0, 3.0)):
        params = ImageParams(num_inference_steps=3, guidance_scale=scale)
        job, items = make_job(seed, params, conditioning_image(seed) if seed else None)
        loop.submit(job)
        outputs.append(items)
    drain(loop, *outputs)
    return [pixels_of(items) for items in outputs]


def test_onnxruntime_draws_what_torch_draws(compiled: Backend, checkpoint: Path) -> None:
    torch_backend = TorchBackend(checkpoint, "cpu")
    torch_backend.start()
    pairs = zip(draw_three(compiled), draw_three(torch_backend), strict=True)
    assert max(np.abs(ours - theirs).max() for ours, theirs in pairs) <= 1
    assert compiled.capabilities.sizes is None


def test_a_graph_that_computes_something_else_is_not_used(compiled: Backend) -> None:
    executors = compiled.executors  # type: ignore[attr-defined]
    swapped = {**executors, "decode-1": Wrong(executors["decode-1"])}
    compiled.executors = swapped  # type: ignore[attr-defined]
    with pytest.raises(ParityError, match="decode-1"):
        compiled.start()
    compiled.executors = executors  # type: ignore[attr-defined]


class Wrong:
    """An executor whose outputs are off."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def run(self, inputs: object) -> list[object]:
        return [x + 0.1 for x in self.inner.run(inputs)]  # type: ignore[attr-defined]


async def test_fallback_to_torch_is_counted(checkpoint: Path, tmp_path: Path) -> None:
    options = ImageEngineOptions(checkpoint, "tensorrt", "cpu", engines=tmp_path)
    engine = BatchedImageEngine(options)
    await engine.start()
    assert engine.backend.capabilities.name == "torch"
    assert engine.statistics.num_backend_fallbacks == 1
    await engine.stop()
    refusing = BatchedImageEngine(dataclasses.replace(options, fallback=False))
    with pytest.raises(BackendUnavailable):
        await refusing.start()
    assert len(model_digest(checkpoint)) == 64

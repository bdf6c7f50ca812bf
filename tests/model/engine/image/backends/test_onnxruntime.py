"""Images drawn side by side by ONNX Runtime: one graph for any number and any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.engine.image.backends.base import BackendUnavailable
from model.engine.image.backends.eager import TorchBackend
from model.engine.image.backends.onnxruntime import OnnxBackend, onnxruntime_backend
from model.engine.image.loop import DenoisingLoop
from model.sampling_params import ImageParams
from tests.model.engine.jobs import (
    conditioning_image,
    drain,
    make_job,
    pixels_of,
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def backend(checkpoint: Path, engines: Path) -> OnnxBackend:
    backend = onnxruntime_backend(checkpoint, engines, 4)
    assert isinstance(backend, OnnxBackend)
    backend.start()
    return backend


def draw(backend: OnnxBackend | TorchBackend, *wanted: ImageParams) -> list[np.ndarray]:
    loop, outputs = DenoisingLoop(backend, 2**40, 2**20), []
    for seed, params in enumerate(wanted):
        job, items = make_job(seed, params, conditioning_image(seed))
        loop.submit(job)
        outputs.append(items)
    drain(loop, *outputs)
    return [pixels_of(items) for items in outputs]


def test_bits_do_not_depend_on_the_company(backend: OnnxBackend) -> None:
    """Not even on its number: every image is evaluated by itself."""
    params = ImageParams(num_inference_steps=4)
    first, *_ = draw(backend, params)
    for others in (1, 3):
        assert (draw(backend, *[params] * (1 + others))[0] == first).all()


def test_a_size_that_was_not_compiled_is_drawn_by_torch(backend: OnnxBackend) -> None:
    torch_backend = TorchBackend(backend.torch.checkpoint, "cpu")
    torch_backend.start()
    wanted = (
        ImageParams(num_inference_steps=3, width=24, height=16),
        ImageParams(num_inference_steps=3, width=24, height=16, guidance_scale=1.0),
    )
    for ours, theirs in zip(draw(backend, *wanted), draw(torch_backend, *wanted), strict=True):
        assert ours.shape == (16, 24, 3)
        assert np.abs(ours - theirs).max() <= 1


def test_graphs_are_exported_once(
    backend: OnnxBackend, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second worker with the same cache finds them."""
    monkeypatch.setattr(torch.onnx, "export", None)
    again = onnxruntime_backend(backend.torch.checkpoint, engines, 4)
    assert again.manifest == backend.manifest


def test_a_cache_that_cannot_be_written_is_no_crash(backend: OnnxBackend, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendUnavailable, match="export"):
        onnxruntime_backend(backend.torch.checkpoint, tmp_path / "file" / "engines", 4)

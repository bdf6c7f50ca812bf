"""Images drawn side by side by ONNX Runtime: one graph for any number and any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.engine.image.backends.base import BackendUnavailable
from model.engine.image.backends.eager import TorchBackend
from model.engine.image.backends.onnxruntime import (
    BoundExecutor,
    OnnxBackend,
    bound_backend,
    onnxruntime_backend,
)
from model.engine.image.loop import DenoisingLoop
from model.export.command import CompileOptions, compile_checkpoint
from model.sampling_params import ImageParams
from tests.model.engine.jobs import (
    conditioning_image,
    drain,
    make_job,
    pixels_of,
    tokens,
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


def test_a_graph_bound_to_memory_computes_what_pytorch_does(
    backend: OnnxBackend, engines: Path
) -> None:
    """The executor of CUDA, on the CPU: `start` compares every graph with PyTorch."""
    checkpoint = backend.torch.checkpoint
    options = CompileOptions("onnxruntime", targets=(), precision="float32", buckets=(1,))
    place, manifest = compile_checkpoint(checkpoint, engines, options)
    bound = bound_backend(checkpoint, place, manifest, torch.device("cpu"))
    bound.start()
    executor = bound.executors["denoise-1"]
    assert isinstance(executor, BoundExecutor)
    prepared = bound.prepare(tokens(1)[None], None)
    predict = bound.join([prepared], guided=True)
    latents = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    first = predict(latents[0], torch.tensor([500])).clone()
    again = predict(latents[1], torch.tensor([500]))
    assert again.data_ptr() == predict(latents[0], torch.tensor([500])).data_ptr()
    assert torch.equal(again, first)  # The same inputs as at first, in the same memory.
    torch_step = backend.torch.join([backend.torch.prepare(tokens(1)[None], None)], guided=True)
    assert (first - torch_step(latents[0], torch.tensor([500]))).abs().max() < 1e-4

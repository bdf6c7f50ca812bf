"""The image engine on a card: the CPU's images, without waiting for the card within a step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from model.engine.image.backends.eager import TorchBackend
from model.engine.image.loop import DenoisingLoop
from model.engine.image.steps.captured import CapturedStep
from model.engine.image.steps.compiled import CompiledStep
from model.image_decoder.schedule import SCHEDULERS
from model.sampling_params import ImageParams
from tests.model.engine.jobs import (
    conditioning_image,
    drain,
    make_job,
    pixels_of,
    small_checkpoint,
)

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(autouse=True)
def _ieee() -> Iterator[None]:
    """No TF32: the CPU's numbers are the reference."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def started(
    checkpoint: Path, device: str, dtype: str = "float32", **options: object
) -> TorchBackend:
    backend = TorchBackend(checkpoint, device, dtype, **options)  # type: ignore[arg-type]
    backend.start()
    return backend


def images(backend: TorchBackend, scheduler: str, number: int = 3) -> list[np.ndarray]:
    """Images that join one after the other, with previews; one of them without guidance."""
    loop, outputs = DenoisingLoop(backend, 2**40, 2**20), []
    for seed in range(number):
        guidance = 1.0 if seed == number - 1 else 5.0
        params = ImageParams(
            num_inference_steps=6, scheduler=scheduler, guidance_scale=guidance, num_previews=1
        )
        job, items = make_job(seed, params, conditioning_image(seed))
        loop.submit(job)
        loop.turn()
        outputs.append(items)
    drain(loop, *outputs)
    return [pixels_of(items) for items in outputs]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_images_are_those_of_the_cpu(checkpoint: Path, scheduler: str) -> None:
    on_cpu = images(started(checkpoint, "cpu"), scheduler)
    on_gpu = images(started(checkpoint, "cuda", warm_up=(1, 2, 3)), scheduler)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reduced_precision_stays_near(checkpoint: Path, dtype: str) -> None:
    on_cpu = images(started(checkpoint, "cpu"), "ddim")
    on_gpu = images(started(checkpoint, "cuda", dtype), "ddim")
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert np.abs(ours - theirs).mean() < 4


def test_steps_are_recorded(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = started(checkpoint, "cuda", warm_up=(1, 2))
    assert isinstance(backend._step, CapturedStep)
    assert backend._step.num_recordings == 2
    assert "no CUDA graph" not in caplog.text


def test_the_host_never_waits_within_a_step(checkpoint: Path) -> None:
    """PyTorch itself raises at every call that would synchronise."""
    backend = started(checkpoint, "cuda", "bfloat16")
    loop = DenoisingLoop(backend, 2**40, 2**20)
    job, items = make_job(1, ImageParams(num_inference_steps=8, scheduler="ddpm"))
    loop.submit(job)
    loop.turn()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(6):
            loop.turn()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    drain(loop, items)
    pixels_of(items)


@pytest.mark.timeout(300)
def test_compiled_blocks_agree_and_take_over(checkpoint: Path, tmp_path: Path) -> None:
    backend = started(checkpoint, "cuda", warm_up=(1, 2), compiled_into=tmp_path)
    before = images(backend, "dpmsolver++")
    backend.finish_compiling()
    step = backend._step
    assert isinstance(step, CompiledStep)
    assert len(step.ready) == 2
    after = images(backend, "dpmsolver++")
    for ours, theirs in zip(after, before, strict=True):
        assert np.abs(ours - theirs).max() <= 2
    assert len(list(tmp_path.iterdir())) == 1

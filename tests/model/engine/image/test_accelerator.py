"""The engine on a device that the host must not wait for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.engine.image.backends.base import Predict
from model.engine.image.backends.eager import TorchBackend
from model.engine.image.loop import DenoisingLoop
from model.engine.protocol import ImageEnd, ImagePreview, ImageProgress
from model.image_decoder.unet.conditions import Conditions
from model.sampling_params import ImageParams
from tests.model.device.accelerator import FakeStream, HostWaits, no_host_copies
from tests.model.engine.jobs import conditioning_image, drain, make_job, small_checkpoint

STEPS = 3


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> TorchBackend:
    checkpoint = small_checkpoint(tmp_path_factory.mktemp("small") / "model")
    backend = TorchBackend(checkpoint, "meta", "bfloat16")
    backend.start()
    return backend


def new_loop(backend: TorchBackend) -> tuple[DenoisingLoop, FakeStream]:
    stream = FakeStream()
    return DenoisingLoop(backend, 2**40, 2**20, stream), stream


def test_no_step_reads_the_device(backend: TorchBackend) -> None:
    """Guided, rescaled and unguided images with previews, from the first step to their pixels."""
    loop, stream = new_loop(backend)
    kinds = [
        ImageParams(num_inference_steps=2, scheduler="unipc", num_previews=1),
        ImageParams(num_inference_steps=2, scheduler="ddpm", guidance_rescale=0.7),
        ImageParams(num_inference_steps=2, guidance_scale=1.0),
    ]
    outputs = []
    for seed, params in enumerate(kinds):
        job, items = make_job(seed, params, conditioning_image(seed))
        loop.submit(job)
        outputs.append(items)
    with no_host_copies():
        drain(loop, *outputs)
    for items in outputs:
        assert [x.step for x in items if isinstance(x, ImageProgress) and x.step] == [1, 2]
        assert isinstance(items[-1], ImageEnd)
    assert any(isinstance(item, ImagePreview) for item in outputs[0])
    # What comes down: the fit of the previews, one preview, and the pixels of the two groups with
    # whether they are finite.
    assert stream.log.count("download") == 1 + 1 + 2 * 2


@pytest.mark.parametrize("offence", ["item", "cpu"])
def test_a_copy_to_the_host_in_a_step_is_caught(
    backend: TorchBackend, monkeypatch: pytest.MonkeyPatch, offence: str
) -> None:
    join = backend.join

    def offending(images: list[Conditions], guided: bool) -> Predict:
        predict = join(images, guided)

        def step(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            getattr(latents.flatten()[0], offence)()
            return predict(latents, timesteps)

        return step

    monkeypatch.setattr(backend, "join", offending)
    loop, _ = new_loop(backend)
    job, items = make_job(1, ImageParams(num_inference_steps=2))
    loop.submit(job)
    try:
        with no_host_copies():
            loop.turn()
    except HostWaits:
        return
    assert isinstance(items[-1], RuntimeError)


def test_one_step_is_queued_behind_the_running_one(backend: TorchBackend) -> None:
    loop, stream = new_loop(backend)
    job, items = make_job(1, ImageParams(num_inference_steps=STEPS))
    loop.submit(job)
    for turn in range(1, STEPS):
        loop.turn()
        assert job.trajectory.step == turn
        assert stream.ahead == 1
        # Progress is of steps that the device has taken, not of those that were enqueued.
        assert [x.step for x in items if isinstance(x, ImageProgress) and x.step] == list(
            range(1, turn)
        )
    drain(loop, items)
    assert stream.ahead == 0


def test_a_newcomer_joins_before_the_next_step(backend: TorchBackend) -> None:
    loop, _ = new_loop(backend)
    first, first_items = make_job(1, ImageParams(num_inference_steps=STEPS))
    loop.submit(first)
    loop.turn()
    second, second_items = make_job(2, ImageParams(num_inference_steps=STEPS))
    loop.submit(second)
    loop.turn()
    assert (first.trajectory.step, second.trajectory.step) == (2, 1)
    drain(loop, first_items, second_items)
    assert loop.statistics.batch_sizes == {1: 2, 2: 2}


def test_a_failed_device_ends_the_images_on_it(backend: TorchBackend, tmp_path: Path) -> None:
    loop, stream = new_loop(backend)
    job, items = make_job(1, ImageParams(num_inference_steps=STEPS))
    loop.submit(job)

    def fail(self: object) -> None:
        raise RuntimeError("illegal address")

    record = stream.record

    def broken() -> object:
        event = record()
        event.wait = fail.__get__(event)  # type: ignore[method-assign]
        return event

    stream.record = broken  # type: ignore[method-assign, assignment]
    loop.turn()
    loop.turn()
    assert isinstance(items[-1], RuntimeError)
    assert "illegal address" in str(items[-1])
    assert loop.statistics.num_failed == 1

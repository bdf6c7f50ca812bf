"""Images join and leave the batch at any step, and never change each other."""

import time

import numpy as np
import pytest
import torch

from model.engine.image.backends.base import Backend, Predict
from model.engine.image.backends.eager import TorchBackend
from model.engine.image.loop import DenoisingLoop
from model.engine.protocol import ImageEnd, ImagePreview, ImageProgress
from model.image_decoder.sampler import initial_noise
from model.image_decoder.schedule import SCHEDULERS
from model.sampling_params import ImageParams
from tests.model.engine.jobs import (
    conditioning_image,
    drain,
    make_job,
    pixels_of,
    small_checkpoint,
    tokens,
)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> TorchBackend:
    backend = TorchBackend(small_checkpoint(tmp_path_factory.mktemp("small") / "model"), "cpu")
    backend.start()
    return backend


def new_loop(backend: Backend, memory_bytes: int = 2**40) -> DenoisingLoop:
    return DenoisingLoop(backend, memory_bytes, 2**20)


def alone(backend: Backend, seed: int, params: ImageParams, **options: object) -> np.ndarray:
    loop = new_loop(backend)
    job, items = make_job(seed, params, **options)
    loop.submit(job)
    drain(loop, items)
    return pixels_of(items)


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_same_image_whoever_shares_the_batch(backend: TorchBackend, scheduler: str) -> None:
    """A second image joins before every step of the first one, each with its own parameters."""
    params = ImageParams(num_inference_steps=5, scheduler=scheduler)
    image = conditioning_image(10)
    loop = new_loop(backend)
    first, first_items = make_job(1, params, image)
    loop.submit(first)
    others = []
    for step in range(5):
        mixed = ImageParams(
            num_inference_steps=2 + step, scheduler=scheduler, guidance_scale=1.5 + step
        )
        job, items = make_job(10 + step, mixed)
        loop.submit(job)
        others.append((10 + step, mixed, items))
        loop.turn()
    drain(loop, first_items, *(items for *_, items in others))
    assert max(loop.statistics.batch_sizes) > 3
    expected = alone(backend, 1, params, previous=image)
    assert np.abs(pixels_of(first_items) - expected).max() <= 1
    for seed, mixed, items in others:
        assert np.abs(pixels_of(items) - alone(backend, seed, mixed)).max() <= 1


def test_the_loop_draws_what_the_plain_sampler_draws(backend: TorchBackend) -> None:
    """The published algorithm, one image, 6 steps of DDPM with guidance and rescale."""
    params = ImageParams(num_inference_steps=6, guidance_scale=4.0, guidance_rescale=0.7)
    ours = alone(backend, 3, params, previous=conditioning_image(200))
    generator = torch.Generator().manual_seed(3)
    sampler = backend.sampler
    prepared = backend.prepare(tokens(3)[None], backend.features(conditioning_image(200).image))
    latents = sampler.denoise(
        initial_noise(sampler.config, generator),
        sampler.join([prepared], guided=True),
        generator,
        6,
        4.0,
        0.7,
    )
    theirs = (sampler.decode(latents)[0].permute(1, 2, 0) * 255 + 0.5).int().numpy()
    assert np.abs(ours - theirs).max() <= 1


def test_bits_are_the_same_in_the_same_bucket(backend: TorchBackend) -> None:
    params = ImageParams(num_inference_steps=3)
    images = []
    for companion in (7, 8):
        loop = new_loop(backend)
        first, items = make_job(1, params)
        second, more = make_job(companion, params, conditioning_image(companion))
        loop.submit(first)
        loop.submit(second)
        drain(loop, items, more)
        images.append(pixels_of(items))
    assert (images[0] == images[1]).all()


def test_another_images_broken_numbers_stay_there(backend: TorchBackend) -> None:
    params = ImageParams(num_inference_steps=4)
    loop = new_loop(backend)
    good, good_items = make_job(1, params)
    bad, bad_items = make_job(2, params)
    bad.image_tokens_1TD = torch.full_like(bad.image_tokens_1TD, float("nan"))
    loop.submit(good)
    loop.submit(bad)
    drain(loop, good_items, bad_items)
    assert np.abs(pixels_of(good_items) - alone(backend, 1, params)).max() <= 1
    assert isinstance(bad_items[-1], ArithmeticError)


def test_the_previous_image_matters(backend: TorchBackend) -> None:
    params = ImageParams(num_inference_steps=3)
    without = alone(backend, 1, params)
    red = alone(backend, 1, params, previous=conditioning_image(255))
    blue = alone(backend, 1, params, previous=conditioning_image(0))
    assert np.abs(without - red).max() > 1
    assert np.abs(blue - red).max() > 1


def test_cancelled_rows_are_free_before_the_next_step(backend: TorchBackend) -> None:
    loop = new_loop(backend)
    params = ImageParams(num_inference_steps=8)
    stays, stays_items = make_job(1, params)
    goes, _ = make_job(2, params)
    loop.submit(stays)
    loop.submit(goes)
    loop.turn()
    assert loop.statistics.num_rows == 4
    loop.cancel(goes)
    loop.turn()
    assert loop.statistics.num_rows == 6
    assert loop.statistics.num_cancelled == 1
    drain(loop, stays_items)


def test_leaving_at_any_step_changes_nobody(backend: TorchBackend) -> None:
    params = ImageParams(num_inference_steps=5)
    loop = new_loop(backend)
    stays, items = make_job(1, params)
    leaving = [make_job(10 + step, params)[0] for step in range(4)]
    for job in (stays, *leaving):
        loop.submit(job)
    for job in leaving:
        loop.turn()
        loop.cancel(job)
    drain(loop, items)
    assert loop.statistics.batch_sizes == {5: 1, 4: 1, 3: 1, 2: 1, 1: 1}
    assert np.abs(pixels_of(items) - alone(backend, 1, params)).max() <= 1


def test_a_passed_deadline_ends_a_image_before_the_next_step(backend: TorchBackend) -> None:
    loop = new_loop(backend)
    job, items = make_job(1, ImageParams(num_inference_steps=50))
    loop.submit(job)
    loop.turn()
    job.deadline = time.monotonic() - 1
    loop.turn()
    assert isinstance(items[-1], TimeoutError)
    assert job.trajectory.step == 1
    assert loop.statistics.num_late == 1


def test_earliest_deadline_goes_first_and_interrupts(backend: TorchBackend) -> None:
    """With room for one image, an urgent newcomer overtakes between two steps."""
    small = TorchBackend(backend.checkpoint, "cpu", max_batch=1)
    small.start()
    loop = new_loop(small)
    params = ImageParams(num_inference_steps=4)
    patient, patient_items = make_job(1, params)
    loop.submit(patient)
    loop.turn()
    urgent, urgent_items = make_job(2, params, deadline=time.monotonic() + 30)
    loop.submit(urgent)
    for _ in range(4):
        loop.turn()
    assert isinstance(urgent_items[-1], ImageEnd)
    assert patient.trajectory.step == 1
    drain(loop, patient_items)
    assert np.abs(pixels_of(patient_items) - alone(small, 1, params)).max() <= 1


def test_admission_by_memory(backend: TorchBackend) -> None:
    loop = new_loop(backend, memory_bytes=2 * backend.capabilities.image_bytes)
    outputs = []
    for seed in range(5):
        job, items = make_job(seed, ImageParams(num_inference_steps=3))
        loop.submit(job)
        outputs.append(items)
    loop.turn()
    assert loop.statistics.num_waiting == 3
    drain(loop, *outputs)
    assert max(loop.statistics.batch_sizes) == 2


@pytest.mark.parametrize("num", range(4))
def test_progress_and_previews(backend: TorchBackend, num: int) -> None:
    loop = new_loop(backend)
    job, items = make_job(1, ImageParams(num_inference_steps=8, num_previews=num))
    loop.submit(job)
    drain(loop, items)
    steps = [item.step for item in items if isinstance(item, ImageProgress) and item.step]
    assert steps == list(range(1, 9))
    previews = [item for item in items if isinstance(item, ImagePreview)]
    assert [preview.number for preview in previews] == list(range(1, num + 1))
    assert all(preview.image.size == (32, 32) for preview in previews)


def test_unguided_and_other_sizes_take_turns(backend: TorchBackend) -> None:
    kinds = (
        ImageParams(num_inference_steps=3),
        ImageParams(num_inference_steps=3, guidance_scale=1.0),
        ImageParams(num_inference_steps=3, width=24, height=16),
    )
    loop = new_loop(backend)
    outputs = []
    for seed, params in enumerate(kinds):
        job, items = make_job(seed, params, conditioning_image(3))
        loop.submit(job)
        outputs.append(items)
    for _ in range(3):
        loop.turn()
    for seed, (items, params) in enumerate(zip(outputs, kinds, strict=True)):
        expected = alone(backend, seed, params, previous=conditioning_image(3))
        assert np.abs(pixels_of(items) - expected).max() <= 1
    assert pixels_of(outputs[2]).shape == (16, 24, 3)


def test_maps_of_an_image_are_computed_once(backend: TorchBackend) -> None:
    loop = new_loop(backend)
    outputs = []
    for seed in range(3):
        job, items = make_job(seed, ImageParams(num_inference_steps=1), conditioning_image(9))
        loop.submit(job)
        outputs.append(items)
    drain(loop, *outputs)
    assert (loop.cache.num_misses, loop.cache.num_hits) == (1, 2)


class Overflowing(TorchBackend):
    """Says that it computes in half precision, and overflows as that does."""

    def __init__(self, inner: TorchBackend, value: float) -> None:
        self.inner, self.value = inner, value
        self.config = inner.config
        super().__init__(inner.checkpoint, "cpu", "float16")

    def start(self) -> None:
        """Nothing to load."""

    prepare = property(lambda self: self.inner.prepare)  # type: ignore[assignment]

    def join(self, *_: object) -> Predict:
        return lambda latents, _: torch.full_like(latents, float("nan")).repeat(2, 1, 1, 1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.full((len(latents), 3, 32, 32), self.value)

    def precise(self) -> Backend:
        return self.inner


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_black_or_broken_images_are_drawn_again_in_float32(
    backend: TorchBackend, value: float
) -> None:
    loop = new_loop(Overflowing(backend, value))
    params = ImageParams(num_inference_steps=3)
    job, items = make_job(4, params)
    loop.submit(job)
    drain(loop, items)
    assert loop.statistics.num_retried_in_float32 == 1
    assert (pixels_of(items) == alone(backend, 4, params)).all()

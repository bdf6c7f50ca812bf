"""Urgency, noise and previews of one image."""

from __future__ import annotations

import time

import pytest
import torch

from model.engine.image.job import PATIENCE_S
from model.image_decoder.schedule import advance
from model.sampling_params import ImageParams
from tests.model.engine.jobs import make_job, small_config

DECODER = small_config().image_decoder


def test_nobody_starves() -> None:
    """Whoever has waited for the patience goes before every newcomer, however urgent."""
    now = time.monotonic()
    old, _ = make_job(1, ImageParams(), arrival=now - PATIENCE_S)
    new, _ = make_job(2, ImageParams(), arrival=now, deadline=now + 0.001)
    assert old.urgency < new.urgency


def test_a_second_beginning_has_the_same_noise() -> None:
    job, _ = make_job(5, ImageParams(num_inference_steps=3))
    job.begin(DECODER, torch.device("cpu"))
    noise = job.trajectory.latents
    assert noise.shape == (1, 4, 8, 8)
    advance([job.trajectory], torch.zeros_like(noise))
    job.begin(DECODER, torch.device("cpu"))
    assert torch.equal(job.trajectory.latents, noise)
    assert job.trajectory.step == 0


def test_images_of_a_group_are_evaluated_together() -> None:
    kinds = [
        make_job(1, ImageParams())[0],
        make_job(1, ImageParams(guidance_scale=1.0))[0],
        make_job(1, ImageParams(width=24, height=16))[0],
        make_job(1, ImageParams(), precise=True)[0],
    ]
    assert len({job.group for job in kinds}) == 4
    assert make_job(2, ImageParams(guidance_scale=3.0))[0].group == kinds[0].group


@pytest.mark.parametrize(
    ("steps", "num", "due"),
    [(8, 0, {}), (8, 1, {4: 1}), (8, 3, {2: 1, 4: 2, 6: 3}), (2, 3, {1: 3}), (1, 1, {})],
)
def test_previews_are_spread_over_the_steps(steps: int, num: int, due: dict[int, int]) -> None:
    job, _ = make_job(1, ImageParams(num_inference_steps=steps, num_previews=num))
    job.begin(DECODER, torch.device("cpu"))
    numbers = {step: job.preview_after(step) for step in range(1, steps + 1)}
    assert {step: number for step, number in numbers.items() if number} == due

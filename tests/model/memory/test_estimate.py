"""The closed form agrees with what the plan counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from model.config.presets import preset
from model.memory.estimate import image_bytes
from model.memory.plan import Assumptions, plan_memory


def test_the_plan_counts_as_much_at_the_published_sizes() -> None:
    config = preset("13b")
    counted = plan_memory(config, Assumptions(dtype=torch.bfloat16)).image.image_bytes
    assert image_bytes(config, 2) == pytest.approx(counted, rel=0.05)


def test_it_grows_with_the_latents_and_the_type() -> None:
    config = preset("tiny")
    decoder = config.image_decoder
    larger = dataclasses.replace(
        config, image_decoder=dataclasses.replace(decoder, image_size=2 * decoder.image_size)
    )
    assert image_bytes(larger, 4) > image_bytes(config, 4) == 2 * image_bytes(config, 2)

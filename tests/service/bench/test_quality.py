from __future__ import annotations

import random

import pytest
from PIL import Image

from model.sampling_params import QUALITIES, Quality
from model.training.world.registry import world_of
from service.bench.quality import Comparison


@pytest.fixture
def comparison() -> Comparison:
    world = world_of("drawn")
    asked = [world.example("text_to_image", random.Random(seed)) for seed in range(2)]
    truth = [example.images[-1].render() for example in asked]
    grey = [Image.new("RGB", image.size, "grey") for image in truth]
    qualities = {"100 steps": Quality(100, "dpmsolver++"), "reference": QUALITIES["reference"]}
    images = {"100 steps": truth, "reference": grey}
    return Comparison(world, asked, qualities, images, {"100 steps": 2.0, "reference": 1.0})


def test_true_images_are_at_no_distance_and_show_all(comparison: Comparison) -> None:
    many, reference = comparison.results()
    assert (many.to_many_steps, many.to_truth, many.score) == (0, 0, 1)
    assert reference.to_reference == 0 < reference.to_truth == reference.to_many_steps
    assert reference.score < 1
    assert (reference.steps, reference.cpu_s_per_image) == (30, 1.0)


def test_the_sheet_has_a_row_for_the_truth_and_each_quality(comparison: Comparison) -> None:
    sheet, side = comparison.sheet(), comparison.images["reference"][0].width
    assert sheet.width == 2 * side
    assert sheet.height > 3 * side

"""Images to learn, with the maps of those that they read."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from model.config.schema import MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.batches import pixels_of
from model.training.targets.image_pool import TargetPool
from model.training.world.drawn import tasks as examples
from model.training.world.example import Example


class _Story:
    """A source of one story."""

    def draw(self, step: int, number: int) -> list[Example]:
        return [examples.story(random.Random(1))] if step == 0 else []


@pytest.mark.parametrize("anchored", [False, True])
def test_a_page_reads_the_one_before_it_or_the_anchor(
    config: MMInterleavedConfig, processor: Processor, anchored: bool
) -> None:
    decoder = replace(config.image_decoder, anchored=anchored)
    model = MMInterleaved(replace(config, image_decoder=decoder)).eval()
    pool = TargetPool(model, processor, _Story(), 100)
    pool.draw(0, 1)
    [story] = _Story().draw(0, 1)
    assert len(pool.targets) == len(story.images) - 1 > 1
    side = config.vision.image_size
    for page, target in enumerate(pool.targets):
        read = story.images[0 if anchored else page]
        with torch.no_grad():
            maps = model.visual_tokenizer(pixels_of(read.render(side))[None]).maps
        assert target.previous is not None
        for mine, true in zip(target.previous, maps, strict=True):
            torch.testing.assert_close(mine.float(), true[0], atol=1e-2, rtol=1e-2)

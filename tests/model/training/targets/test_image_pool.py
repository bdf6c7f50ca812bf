"""Images to copy from, as the model draws them."""

from __future__ import annotations

import random

import torch

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.batches import pixels_of
from model.training.targets.image_pool import Redrawer, Target, TargetPool
from model.training.world.drawn import tasks as examples
from model.training.world.drawn.facts import DRAWN_FACTS
from model.training.world.example import Example


class _Story:
    """A source of one story."""

    def draw(self, step: int, number: int) -> list[Example]:
        return [examples.story(random.Random(1))] if step == 0 else []


def _targets(model: MMInterleaved, processor: Processor, redrawn: float) -> list[Target]:
    pool = TargetPool(model, processor, _Story(), DRAWN_FACTS, 100, redrawn=redrawn)
    with torch.autocast("cpu", torch.bfloat16):  # As the trainer does.
        pool.draw(0, 1)
    return pool.targets


def test_pages_after_the_first_are_copied_from_drawn_ones(
    model: MMInterleaved, processor: Processor
) -> None:
    true, redrawn = _targets(model, processor, 0.0), _targets(model, processor, 1.0)
    assert len(true) > 1
    for page, (target, other) in enumerate(zip(true, redrawn, strict=True)):
        assert torch.equal(target.latents_CHW, other.latents_CHW)  # What to draw stays true.
        assert target.previous is not None and other.previous is not None
        is_true = [
            torch.equal(*levels) for levels in zip(target.previous, other.previous, strict=True)
        ]
        assert is_true == [page == 0] * len(is_true)  # The first page copies the user's image.


def test_what_is_drawn_depends_on_the_start_alone(
    model: MMInterleaved, processor: Processor
) -> None:
    images = examples.story(random.Random(1)).images[:3]
    side = model.config.vision.image_size
    maps = model.visual_tokenizer(torch.stack([pixels_of(p.render(side)) for p in images])).maps
    known = {index: images[index] for index in (1, 2)}
    drawn = []
    for learns in (False, True):
        redrawer = Redrawer(model, processor, DRAWN_FACTS, 0)
        if learns:
            torch.nn.init.normal_(model.image_decoder.decoder.unet.conv_out.weight)
        drawn.append(redrawer.redraw(maps, [-1, 0, 1], known))
    for true, first, second in zip(maps, *drawn, strict=True):
        assert torch.equal(first, second)
        assert [torch.equal(*pair) for pair in zip(true, first, strict=True)] == [
            True,
            False,
            False,
        ]

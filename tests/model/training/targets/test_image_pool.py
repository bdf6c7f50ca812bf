"""Images to copy from, as the model draws them."""

from __future__ import annotations

import random

import torch

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.data.batches import pixels_of
from model.training.targets.image_pool import Redrawer, Target, TargetPool
from model.training.targets.image_tokens.codes import codes_of
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
    codes = codes_of(images, DRAWN_FACTS, model.config)
    side = model.config.vision.image_size
    pixels = torch.stack([pixels_of(p.render(side)) for p in images])
    # The last image but one is before the last, the first before that one, and none before it.
    maps = model.visual_tokenizer(pixels[[0, 0, 1]]).maps
    visible_31 = torch.tensor([[False], [True], [True]])
    drawn = []
    for learns in (False, True):
        redrawer = Redrawer(model, processor, 0)
        if learns:
            torch.nn.init.normal_(model.image_decoder.decoder.unet.conv_out.weight)
        drawn.append(redrawer.redraw(codes, maps, visible_31, [-1, -1, 1]))
    for true, first, second in zip(maps, *drawn, strict=True):
        assert torch.equal(first, second)
        is_true = [torch.equal(*pair) for pair in zip(true, first, strict=True)]
        assert is_true == [True, True, False]


def test_several_images_can_read_the_same_one(model: MMInterleaved, processor: Processor) -> None:
    images = examples.story(random.Random(1)).images[:3]
    codes = codes_of(images, DRAWN_FACTS, model.config)
    pixels_3SS = pixels_of(images[0].render(model.config.vision.image_size))
    maps = model.visual_tokenizer(torch.stack([pixels_3SS] * 3)).maps
    visible_31 = torch.tensor([[False], [True], [True]])
    redrawn = Redrawer(model, processor, 0).redraw(codes, maps, visible_31, [-1, 0, 0])
    for true, drawn in zip(maps, redrawn, strict=True):
        assert torch.equal(drawn[0], true[0])
        assert torch.equal(drawn[1], drawn[2]) and not torch.equal(drawn[1], true[1])

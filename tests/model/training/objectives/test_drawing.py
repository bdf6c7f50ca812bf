"""The image decoder learns from codes, without a language model."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from model.mm_interleaved import MMInterleaved
from model.training.data.batches import pixels_of
from model.training.objectives.drawing import DrawingBatches, DrawingObjective
from model.training.recipe import Phase
from model.training.targets.facts import codes_of
from model.training.world.example import Example
from tests.model.training.objectives.fixed_batch import WORLD, falls, mixture


class _Story:
    """A source of one story."""

    def draw(self, step: int, number: int) -> list[Example]:
        return [WORLD.example("story", random.Random(2))] * number


def test_an_image_of_the_answer_follows_the_one_before_it(model: MMInterleaved) -> None:
    config = model.config
    batch = DrawingBatches(_Story(), WORLD.told, config, 8, 0)[0]
    images = _Story().draw(0, 1)[0].images
    size, seen = config.image_decoder.image_size, config.vision.image_size
    drawn = [pixels_of(image.render(size)) for image in images]
    codes = codes_of(images, WORLD.told, config)
    assert batch["visible"].all()
    for row in range(8):
        index = next(i for i, p in enumerate(drawn) if torch.equal(p, batch["pixels"][row]))
        assert index > 0
        assert torch.equal(batch["before"][row], pixels_of(images[index - 1].render(seen)))
        assert torch.equal(batch["codes"][row], codes[index])


def test_the_decoder_learns_and_nothing_else(model: MMInterleaved, tmp_path: Path) -> None:
    source = mixture("drawing")
    objective = DrawingObjective(model, Phase("drawing", batch_size=2), source, WORLD.told)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    falls(objective, tmp_path, 1e-3, 0.98)
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    learned = ("image_decoder.decoder.unet", "image_decoder.decoder.mmfs", "image_decoder.neg")
    assert changed and all(name.startswith(learned) for name in changed)

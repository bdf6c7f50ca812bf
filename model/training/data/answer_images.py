"""Images that answers show: what objectives without a language model learn to draw."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from model.training.data.mixture import Source
from model.training.world.drawable import Drawable


@dataclass(frozen=True)
class AnswerImages:
    """A random image of the answer of each example, with the image before it."""

    source: Source
    batch_size: int
    seed: int

    def draw(self, step: int) -> Iterator[tuple[Drawable, Drawable | None]]:
        """The pairs of a step; the first image of an example has none before it."""
        rng = random.Random(f"answers/{self.seed}/{step}")
        for example in self.source.draw(step, self.batch_size):
            index = rng.randrange(example.num_given_images, len(example.images))
            yield example.images[index], example.images[index - 1] if index else None

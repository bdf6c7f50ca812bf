"""Images that answers show: what objectives without a language model learn to draw."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from model.training.data.mixture import Source
from model.training.world.drawable import Drawable


@dataclass(frozen=True)
class AnswerImages:
    """A random image of the answer of each example, with the image that it reads.

    That is the one before it or, if `anchored`, the anchor of the answer.
    """

    source: Source
    batch_size: int
    seed: int
    anchored: bool = False

    def draw(self, step: int) -> Iterator[tuple[Drawable, Drawable | None]]:
        """The pairs of a step; the first image of an example reads none."""
        rng = random.Random(f"answers/{self.seed}/{step}")
        for example in self.source.draw(step, self.batch_size):
            images = example.images
            chosen = rng.choice(range(example.num_given_images, len(images)))
            anchor = max(example.num_given_images - 1, 0) if self.anchored else len(images)
            yield images[chosen], images[min(chosen - 1, anchor)] if chosen else None

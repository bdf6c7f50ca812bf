"""Images that answers show: what objectives without a language model learn to draw."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from model.training.data.mixture import Source
from model.training.world.drawable import Drawable
from model.training.world.example import Example


@dataclass(frozen=True)
class AnswerImages:
    """A random image of the answer of each example, with the image that it reads.

    That is the one before it or, if `anchored`, the anchor of the answer. With `whole` all images
    of the answers, of as many examples as make a batch.
    """

    source: Source
    batch_size: int
    seed: int
    whole: bool = False
    anchored: bool = False

    def draw(self, step: int) -> Iterator[tuple[Drawable, Drawable | None]]:
        """The pairs of a step; the first image of an example reads none."""
        rng = random.Random(f"answers/{self.seed}/{step}")
        examples = self.source.draw(step, self.batch_size)
        return islice(chain.from_iterable(self._pairs(e, rng) for e in examples), self.batch_size)

    def _pairs(
        self, example: Example, rng: random.Random
    ) -> list[tuple[Drawable, Drawable | None]]:
        indices = range(example.num_given_images, len(example.images))
        chosen = indices if self.whole else [rng.choice(indices)]
        images = example.images
        anchor = max(indices.start - 1, 0) if self.anchored else len(images)
        return [(images[i], images[min(i - 1, anchor)] if i else None) for i in chosen]

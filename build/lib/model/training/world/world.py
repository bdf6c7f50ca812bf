"""The interface of a world: examples made from a seed, and the truth about their images."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from model.training.world.drawable import Box, Drawable, LabelledImage, SegmentedImage
from model.training.world.example import Example, Rows, Score
from model.training.world.facts import Facts


class ExampleMaker(Protocol):
    """A source of examples of named tasks: a world, or a stock of its images."""

    def example(self, task: str, rng: random.Random) -> Example:
        """A random example of a task."""
        ...


class World(ExampleMaker, Protocol):
    """A world of images. `deploy/train/*.toml` chooses one; nothing else names it."""

    @property
    def tasks(self) -> Collection[str]:
        """The names of its tasks."""
        ...

    @property
    def scores(self) -> Mapping[str, Score]:
        """The scores of the tasks that are evaluated."""
        ...

    def reader_score(self, rng: random.Random) -> Rows:
        """The accuracy on a true image of the reader that the scores use."""
        ...

    @property
    def seen(self) -> Facts:
        """The facts that visual tokens hold."""
        ...

    @property
    def told(self) -> Facts:
        """The facts that image tokens hold: of an image, those that its example tells."""
        ...

    def check(self) -> None:
        """Check that this machine has what images are made of, or fetch it.

        Raises:
            ConfigError: it is missing.
        """
        ...

    def scene(self, rng: random.Random) -> LabelledImage:
        """A random image, for training what has no text."""
        ...

    def in_words(self, example: Example) -> Example:
        """The example with a description in place of each image of its prompt."""
        ...

    def stock(self, name: str, num_images: int) -> ExampleMaker:
        """Examples of about that many images, which are functions of the name."""
        ...


@runtime_checkable
class SegmentedWorld(Protocol):
    """A world whose images know their things one by one."""

    @property
    def part_values(self) -> Mapping[str, tuple[str, ...]]:
        """The values of the facts of a thing; first what it is, whose first value is nothing."""
        ...

    @property
    def whole_values(self) -> Mapping[str, tuple[str, ...]]:
        """The values of the facts of a whole image."""
        ...

    def scene(self, rng: random.Random) -> SegmentedImage:
        """A random image."""
        ...

    def parts(self, image: Drawable) -> Sequence[tuple[Mapping[str, str], Box]]:
        """The facts of each thing of an image, and its box (left, top, right, bottom) in [0, 1]."""
        ...

    def whole_facts(self, image: Drawable) -> Mapping[str, str]:
        """The facts of a whole image."""
        ...

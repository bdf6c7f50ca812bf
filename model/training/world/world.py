"""The interface of a world: examples made from a seed, and the truth about their images."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.segments import RoleSegment


class Drawable(Protocol):
    """Anything that can be an image of an example; equal ones show the same."""

    def render(self, size: int = ...) -> Image.Image:
        """The pixels, RGB, `size` square."""
        ...


class LabelledImage(Drawable, Protocol):
    """An image whose content is known."""

    def label_map(self, size: int = ...) -> NDArray[np.uint8]:
        """The class of every pixel, [size, size]."""
        ...


Part = str | Drawable


@dataclass(frozen=True)
class Example:
    """A user's content and the answer.

    Attributes:
        task: its name.
        prompt: the user's content, the last before the answer.
        answer: the content to learn.
        further: further questions with their answers.
        unfinished: the answer ends where it asks for its last image.
        earlier: what the user said, and the answer to it, for each exchange before the prompt.
    """

    task: str
    prompt: tuple[Part, ...]
    answer: tuple[Part, ...]
    further: tuple[tuple[str, str], ...] = ()
    unfinished: bool = False
    earlier: tuple[tuple[tuple[Part, ...], tuple[Part, ...]], ...] = ()

    @property
    def given(self) -> tuple[Part | RoleSegment, ...]:
        """Everything before the answer, as messages with roles if there are several."""
        parts: list[Part | RoleSegment] = []
        for asked, answered in self.earlier:
            parts += [*asked, RoleSegment("assistant"), *answered, RoleSegment("user")]
        return (*parts, *self.prompt)

    @property
    def images(self) -> tuple[Drawable, ...]:
        """All images, in reading order."""
        return tuple(
            part for part in (*self.given, *self.answer) if not isinstance(part, (str, RoleSegment))
        )

    @property
    def num_given_images(self) -> int:
        """Number of images before the answer."""
        return len(self.images) - sum(not isinstance(part, str) for part in self.answer)


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

    def scene(self, rng: random.Random) -> LabelledImage:
        """A random image, for training what has no text."""
        ...

    def in_words(self, example: Example) -> Example:
        """The example with a description in place of each image of its prompt."""
        ...

    def stock(self, name: str, num_images: int) -> ExampleMaker:
        """Examples of about that many images, which are functions of the name."""
        ...

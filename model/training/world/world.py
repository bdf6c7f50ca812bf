"""The interface of a world: examples made from a seed, and the truth about their images."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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
        prompt: the user's content.
        answer: the content to learn.
        further: further questions with their answers.
        unfinished: the answer ends where it asks for its last image.
    """

    task: str
    prompt: tuple[Part, ...]
    answer: tuple[Part, ...]
    further: tuple[tuple[str, str], ...] = ()
    unfinished: bool = False

    @property
    def images(self) -> tuple[Drawable, ...]:
        """All images, in reading order."""
        return tuple(part for part in (*self.prompt, *self.answer) if not isinstance(part, str))


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

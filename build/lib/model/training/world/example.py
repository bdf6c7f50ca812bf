"""Examples with the answers to learn; what a checkpoint answers, and scores of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from model.segments import RoleSegment
from model.training.world.drawable import Drawable

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


@dataclass(frozen=True)
class GeneratedAnswer:
    """The texts and images of an answer, in order; `ended` if it ended with `<eos>`."""

    parts: tuple[str | Image.Image, ...]
    ended: bool

    @property
    def text(self) -> str:
        """All text, joined."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """All images."""
        return tuple(part for part in self.parts if not isinstance(part, str))


Rows = Iterator[tuple[str, float]]
"""Named values, of which the evaluation takes the means."""

Score = Callable[[Example, GeneratedAnswer], Rows]

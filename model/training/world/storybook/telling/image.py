"""Images of examples: a scene, and how much of it the words of its example tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.training.world.drawable import Drawable
from model.training.world.storybook.painting.scene import BASE_SIZE, Stand, StorybookScene
from model.training.world.storybook.telling.group import Group, items


@dataclass(frozen=True)
class StorybookImage:
    """An image of an example.

    Attributes:
        scene: what it shows.
        tells_place: whether the words before it say where it is.
        tells_sides: whether they say what stands on which side.
        tells_look: whether they say what the hero looks like. In a story they do not: an image
            before shows it.
        order: in which they tell its items, numbered from the left; from left to right without it.
    """

    scene: StorybookScene
    tells_place: bool = True
    tells_sides: bool = False
    tells_look: bool = True
    order: tuple[int, ...] | None = None

    @property
    def items(self) -> list[Group | Stand]:
        """Groups and the hero as words tell them."""
        shown = items(self.scene)
        return shown if self.order is None else [shown[number] for number in self.order]

    def render(self, size: int = BASE_SIZE) -> Image.Image:
        """The pixels, RGB, `size` square."""
        return self.scene.render(size)

    def foreground(self, size: int = BASE_SIZE) -> NDArray[np.bool_]:
        """Where things and the hero are, [S, S]."""
        return self.scene.foreground(size)


def image_of(content: Drawable) -> StorybookImage:
    """The image of an example; a bare scene tells everything.

    Raises:
        ValueError: the content does not come from this world.
    """
    if isinstance(content, StorybookScene):
        return StorybookImage(content, tells_sides=True)
    if not isinstance(content, StorybookImage):
        raise ValueError("the content of an image is known only for images of the world")
    return content

"""A world of coloured squares whose things are known one by one."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.training.world.drawable import Box, Drawable

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


@dataclass(frozen=True)
class Squares:
    """Squares of a quarter of the side: colour, column, row in quarters."""

    squares: tuple[tuple[str, int, int], ...]

    def render(self, size: int = 96) -> Image.Image:
        pixels = np.full((size, size, 3), 120, np.uint8)
        for (colour, _, _), place in zip(self.squares, self._places(size), strict=True):
            pixels[place] = COLOURS[colour]
        return Image.fromarray(pixels)

    def instances(self, size: int = 96) -> NDArray[np.uint8]:
        owners = np.zeros((size, size), np.uint8)
        for number, place in enumerate(self._places(size), 1):
            owners[place] = number
        return owners

    def foreground(self, size: int = 96) -> NDArray[np.bool_]:
        return self.instances(size) > 0

    def _places(self, size: int) -> list[tuple[slice, slice]]:
        side = size // 4
        return [
            (slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
            for _, column, row in self.squares
        ]


class SquareWorld:
    """One or two squares."""

    part_values = {"what": ("nothing", "square"), "colour": tuple(COLOURS)}
    whole_values = {"number": ("one", "two")}

    def scene(self, rng: random.Random) -> Squares:
        columns = rng.sample(range(4), rng.randint(1, 2))
        return Squares(tuple((rng.choice(list(COLOURS)), c, rng.randrange(4)) for c in columns))

    def parts(self, image: Drawable) -> list[tuple[dict[str, str], Box]]:
        assert isinstance(image, Squares)
        return [
            ({"what": "square", "colour": colour}, (c / 4, r / 4, (c + 1) / 4, (r + 1) / 4))
            for colour, c, r in image.squares
        ]

    def whole_facts(self, image: Drawable) -> dict[str, str]:
        assert isinstance(image, Squares)
        return {"number": self.whole_values["number"][len(image.squares) - 1]}

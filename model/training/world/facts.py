"""What can be said of an image: named facts, each at one of a few places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.training.world.drawable import Drawable

PictureOf = Callable[[str, int], NDArray[np.float32] | None]


def no_picture(value: str, side: int) -> None:
    """For worlds whose things have no picture of their own."""


@dataclass(frozen=True)
class Facts:
    """The facts of a world's images. The last place is the background.

    Attributes:
        values: the possible values of every fact, by its name.
        places: the place of every fact, an index.
        num_places: number of places.
        of: the facts of an image, by name. Facts that do not apply, or are not told, are left out.
        words_of: the facts of an image by place, as words in spoken order.
        picture_of: what a value looks like by itself, [side, side, 4] in [0, 1]: colours times
            opacity, and opacity. None if that is not known.
    """

    values: Mapping[str, tuple[str, ...]]
    places: Mapping[str, int]
    num_places: int
    of: Callable[[Drawable], Mapping[str, str]]
    words_of: Callable[[Drawable], list[list[str]]]
    picture_of: PictureOf = no_picture

    @property
    def num_values(self) -> list[int]:
        """The number of values of every fact, in order."""
        return [len(values) for values in self.values.values()]

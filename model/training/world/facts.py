"""What can be said of an image: named facts, each at one of a few places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.training.world.drawable import Drawable

WHAT = "what"
"""The last word of the facts that say what is at a place."""
NOTHING = "nothing"
"""Their first value: nothing is."""


@dataclass(frozen=True)
class SketchedPart:
    """A piece of a thing, as large as a cell.

    Attributes:
        pixels: its colours, times its opacity, and its opacity, [C, C, 4] in [0, 1].
        cells: the cells at which it lies, one for each of several equal things.
    """

    pixels: NDArray[np.float32]
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Sketch:
    """What the words before an image tell of it, painted: a grid of cells.

    Attributes:
        things: in full light on nothing, colours times opacity and opacity, [S, S, 4] in [0, 1].
        background: without things, colours, [S, S, 3] in [0, 1].
        kinds: what covers most of each cell, row by row: a value of `WHAT`.
    """

    things: NDArray[np.float32]
    background: NDArray[np.float32]
    kinds: tuple[str, ...]


class Sketcher(Protocol):
    """Paints what the words before an image tell of it."""

    def sketch(self, image: Drawable, num_cells: int, cell: int) -> Sketch:
        """The whole image, in `num_cells` x `num_cells` cells of `cell` x `cell` pixels."""
        ...

    def parts(
        self, image: Drawable, num_cells: int, cell: int
    ) -> list[tuple[SketchedPart | None, ...]]:
        """The thing at each place, piece by piece; None where it has no such piece."""
        ...


@dataclass(frozen=True)
class Facts:
    """The facts of a world's images. The last place is the background.

    Attributes:
        values: the possible values of every fact, by its name.
        places: the place of every fact, an index.
        num_places: number of places.
        of: the facts of an image, by name. Facts that do not apply, or are not told, are left out.
        words_of: the facts of an image by place, as words in spoken order.
        figures_of: the numbers from 0 to 99 that language gives of what is at each place, if it
            gives any; empty where it does not.
        sketcher: of the images, if what they show follows from what is told of them.
        always: the last words of the facts that every image has.
        alternatives: last words of facts that go together; at a place those of one alternative do.
    """

    values: Mapping[str, tuple[str, ...]]
    places: Mapping[str, int]
    num_places: int
    of: Callable[[Drawable], Mapping[str, str]]
    words_of: Callable[[Drawable], list[list[str]]]
    figures_of: Callable[[Drawable], list[list[int]]] | None = None
    sketcher: Sketcher | None = None
    always: tuple[str, ...] = ()
    alternatives: tuple[tuple[str, ...], ...] = ((),)

    @property
    def num_values(self) -> list[int]:
        """The number of values of every fact, in order."""
        return [len(values) for values in self.values.values()]

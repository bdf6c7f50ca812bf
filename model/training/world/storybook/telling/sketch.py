"""Sketches of images that are to be drawn, as far as words tell them.

Things are also sketched one by one, cut into the cells of their boxes: where boxes begin at cells
(`telling.composition`), pieces lie on cells as they are.

Legend: S side in pixels, C colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from model.training.world.drawable import Drawable
from model.training.world.facts import NOTHING, Sketch, SketchedPart
from model.training.world.storybook.painting.hero import UNTOLD
from model.training.world.storybook.painting.scene import (
    Layer,
    Stand,
    StorybookScene,
    StorybookThing,
    clip,
    hero_layer,
    thing_layer,
)
from model.training.world.storybook.telling.composition import Entry, cell_of, width_in_cells
from model.training.world.storybook.telling.group import Group
from model.training.world.storybook.telling.image import StorybookImage, image_of

NUM_ITEMS = 4  # More are not told.
_COVERED = 0.2  # Share of a cell from which a thing counts as what it shows.
_PARTS_ACROSS = 5  # Of wider or higher boxes the outer columns and the top are left out.


class StorybookSketcher:
    """Sketches scenes and their things."""

    def sketch(self, image: Drawable, num_cells: int, cell: int) -> Sketch:
        """The things and the background of the told scene, painted apart."""
        side = num_cells * cell
        scene = _told(image_of(image))
        owners_SS = scene.instances(side)
        kinds = [NOTHING, *map(_kind, scene.entries)]
        owned_SSE = owners_SS[..., None] == np.arange(len(kinds))
        shares = owned_SSE.reshape(num_cells, cell, num_cells, cell, -1).mean((1, 3))
        # A thing is what a cell shows before it covers the half of it.
        shares[..., 0] = np.where(shares[..., 1:].max(-1, initial=0) > _COVERED, 0, 1)
        shown = shares.argmax(-1).flatten()
        return Sketch(
            _painted([layer for _, layer in scene.layers(side)], side),
            replace(scene, things=(), stand=None).pixels(side),
            tuple(kinds[number] for number in shown),
        )

    def parts(
        self, image: Drawable, num_cells: int, cell: int
    ) -> list[tuple[SketchedPart | None, ...]]:
        """The pieces of the things and of the hero, as words tell them."""
        told = image_of(image)
        told = replace(told, scene=_told(told))
        return [_parts(item, num_cells, cell) for item in told.items[:NUM_ITEMS]]


def _parts(item: Group | Stand, num_cells: int, cell: int) -> tuple[SketchedPart | None, ...]:
    """The pieces of an item's thing, row by row from its lower left."""
    entries = item.things if isinstance(item, Group) else (item,)
    side = num_cells * cell
    pixels_SS4 = _painted([_layer(entries[0], side)], side)
    width, bottom = width_in_cells(entries[0]), round(entries[0].y * num_cells)
    left = max(0, (width - _PARTS_ACROSS + 1) // 2)
    parts: list[SketchedPart | None] = []
    for row, column in product(range(_PARTS_ACROSS), repeat=2):
        y, x = bottom - 1 - row, cell_of(entries[0]) + left + column
        pixels_CC4 = pixels_SS4[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell]
        if y < 0 or left + column >= width or not pixels_CC4.any():
            parts.append(None)
            continue
        moves = (cell_of(entry) - cell_of(entries[0]) for entry in entries)
        parts.append(SketchedPart(pixels_CC4, tuple(y * num_cells + x + move for move in moves)))
    return tuple(parts)


def _painted(layers: Sequence[Layer], side: int) -> NDArray[np.float32]:
    """Layers over each other, in full light: colours times opacity and opacity, [S, S, 4]."""
    canvas_SS4 = np.zeros((side, side, 4), np.float32)
    for layer in layers:
        rows, columns, part = clip(layer, canvas_SS4)
        opacity = part[..., 3:]
        over = np.concatenate((part[..., :3] * opacity, opacity), -1)
        canvas_SS4[rows, columns] = canvas_SS4[rows, columns] * (1 - opacity) + over
    return canvas_SS4


def _told(image: StorybookImage) -> StorybookScene:
    """The scene with a hero as nobody has painted or dressed it, if words do not tell its look."""
    stand = image.scene.stand
    if stand is None or image.tells_look:
        return image.scene
    hero = replace(stand.hero, colour=UNTOLD, pattern="plain", token=UNTOLD)
    return replace(image.scene, stand=replace(stand, hero=hero))


def _layer(entry: Entry, side: int) -> Layer:
    return hero_layer(entry, side) if isinstance(entry, Stand) else thing_layer(entry, side)


def _kind(entry: StorybookThing | Stand) -> str:
    return entry.noun if isinstance(entry, StorybookThing) else entry.hero.species

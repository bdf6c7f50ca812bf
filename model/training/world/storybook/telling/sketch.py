"""Sketches of images that are to be drawn, as far as words tell them.

Legend: S side in pixels, C colours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from model.training.world.drawable import Drawable
from model.training.world.facts import NOTHING, Sketch
from model.training.world.storybook.painting.hero import UNTOLD
from model.training.world.storybook.painting.scene import (
    Stand,
    StorybookScene,
    StorybookThing,
)
from model.training.world.storybook.telling.image import StorybookImage, image_of

_COVERED = 0.2  # Share of a cell from which a thing counts as what it shows.


def sketch_of(image: Drawable, num_cells: int, cell: int, /) -> Sketch:
    """The told scene, painted at that size."""
    side = num_cells * cell
    scene = _told(image_of(image))
    owners_SS = scene.instances(side)
    things_SS1 = (owners_SS > 0).astype(np.float32)[..., None]
    kinds = [NOTHING, *map(_kind, scene.entries)]
    owned_SSE = owners_SS[..., None] == np.arange(len(kinds))
    shares = owned_SSE.reshape(num_cells, cell, num_cells, cell, -1).mean((1, 3))
    # A thing is what a cell shows before it covers the half of it.
    shares[..., 0] = np.where(shares[..., 1:].max(-1, initial=0) > _COVERED, 0, 1)
    shown = shares.argmax(-1).flatten()
    pixels_SS4 = np.concatenate((scene.pixels(side), things_SS1), -1)
    return Sketch(pixels_SS4, tuple(kinds[number] for number in shown))


def _told(image: StorybookImage) -> StorybookScene:
    """The scene with a hero as nobody has painted or dressed it, if words do not tell its look."""
    stand = image.scene.stand
    if stand is None or image.tells_look:
        return image.scene
    hero = replace(stand.hero, colour=UNTOLD, pattern="plain", token=UNTOLD)
    return replace(image.scene, stand=replace(stand, hero=hero))


def _kind(entry: StorybookThing | Stand) -> str:
    return entry.noun if isinstance(entry, StorybookThing) else entry.hero.species

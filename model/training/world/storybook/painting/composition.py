"""How images that are to be drawn are composed: things in a row, in one of few views of a place.

In images to be read things stand anywhere. A request seldom says where, and a decoder that has to
choose among all places learns late what things look like: it averages over the places first. So
what it learns to draw is composed: positions follow from the things and their order. They also lie
on the grid of the latents, whose values depend on how a thing lies on it.
"""

from __future__ import annotations

from dataclasses import replace

from model.training.world.storybook.painting.hero import HEIGHT as HERO_HEIGHT
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.scene import (
    OVERLAP,
    Stand,
    StorybookScene,
    StorybookThing,
    width_of,
)

_GRID = 24  # Places of the latents along a side.
_NUM_VIEWS = 2
_GROUND, _AIR = 22 / _GRID, 12 / _GRID  # Lower edges.


def composed(scene: StorybookScene, hero_first: bool = False) -> StorybookScene:
    """The same things in the same order, evenly spaced from left to right, before a common view.

    Args:
        scene: with things that fit in a row.
        hero_first: put the hero before all things, for words that do not say their order.
    """
    entries = list(scene.entries)
    if hero_first:
        entries.sort(key=lambda entry: isinstance(entry, StorybookThing))
    widths = [_width(entry) for entry in entries]
    gap = (1.0 - sum(widths) * (1 - OVERLAP)) / (len(entries) + 1)
    things: list[StorybookThing] = []
    stand, edge = None, gap
    for entry, width in zip(entries, widths, strict=True):
        x = _on_grid(edge - width * OVERLAP / 2) + width / 2
        edge += width * (1 - OVERLAP) + gap
        if isinstance(entry, Stand):
            stand = replace(entry, x=round(x, 4), y=_GROUND)
        else:
            y = _AIR if NOUNS[entry.noun].flies else _GROUND
            things.append(replace(entry, x=round(x, 4), y=y))
    return replace(in_common_view(scene), things=tuple(things), stand=stand)


def in_common_view(scene: StorybookScene) -> StorybookScene:
    """The same things at the same positions, before one of the views that are drawn."""
    setting = replace(scene.setting, view=scene.setting.view % _NUM_VIEWS)
    return replace(scene, setting=setting)


def _width(entry: StorybookThing | Stand) -> float:
    if isinstance(entry, Stand):
        return HERO_HEIGHT
    return width_of(entry.noun, entry.size)


def _on_grid(position: float) -> float:
    return round(position * _GRID) / _GRID

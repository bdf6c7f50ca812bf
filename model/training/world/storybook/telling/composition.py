"""How images that are to be drawn are composed: positions follow from the words alone.

In images to be read things stand anywhere. A request seldom says where exactly, and a decoder that
has to choose learns late what things look like: it averages over the choices first. So what it
learns to draw is composed: things stand in a row of equal slots, or in equal slots of the sides
that are named, before one view of the place. Slots depend on how many things there are and not on
which, and boxes of things begin at cells, the grid of the image tokens. So where something is
follows from counting, and a thing covers its cells in the same way wherever it stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from model.training.world.storybook.painting.hero import HEIGHT as HERO_HEIGHT
from model.training.world.storybook.painting.nouns import NOUNS
from model.training.world.storybook.painting.scene import (
    Stand,
    StorybookScene,
    StorybookThing,
    width_of,
)
from model.training.world.storybook.telling.group import SIDES, Group, groups, items, side_of

GRID = 12  # Cells along a side.
GROUND, AIR = 11, 6  # The rows below things that stand, and that float.

Entry = StorybookThing | Stand


def in_a_row(scene: StorybookScene, hero_first: bool = False) -> StorybookScene:
    """The same things in the same order, in equal slots from left to right.

    Args:
        scene: any scene.
        hero_first: put the hero before all things, for words that do not say their order.
    """
    entries = _as_told(scene)
    if hero_first:
        entries.sort(key=lambda entry: isinstance(entry, StorybookThing))
    return _standing(scene, [(0, GRID, entries)])


def at_sides(scene: StorybookScene) -> StorybookScene:
    """The same things in the same order, in equal slots of the side they are at.

    If nothing is in the middle, left and right have half of the image each.
    """
    left, middle, right = _by_side(scene)
    half, third = GRID // 2, GRID // 3
    if not middle:
        regions = [(0, half, left), (half, GRID, right)]
    elif not left and not right:
        regions = [(0, GRID, middle)]
    else:
        regions = [(0, third, left), (third, GRID - third, middle), (GRID - third, GRID, right)]
    return _standing(scene, regions)


def _by_side(scene: StorybookScene) -> list[list[Entry]]:
    by_side: dict[str, list[Entry]] = {side: [] for side in SIDES}
    for entry in scene.entries:
        by_side[_side(scene, entry)].append(entry)
    return list(by_side.values())


def _as_told(scene: StorybookScene) -> list[Entry]:
    """Things and hero in the order in which words tell them: equal things one after the other."""
    told: list[Entry] = []
    for item in items(scene):
        told += item.things if isinstance(item, Group) else [item]
    return told


def _side(scene: StorybookScene, entry: Entry) -> str:
    """The side at which words tell an entry: that of its group."""
    if isinstance(entry, Stand):
        return side_of(entry.x)
    return next(group.side for group in groups(scene) if entry in group.things)


def _standing(
    scene: StorybookScene, regions: Sequence[tuple[int, int, Sequence[Entry]]]
) -> StorybookScene:
    """A scene with entries in equal slots between some cells, before the place's first view."""
    things: list[StorybookThing] = []
    stand = None
    for start, end, entries in regions:
        for number, entry in enumerate(entries):
            middle = start + (number + 0.5) * (end - start) / len(entries)
            width = width_in_cells(entry)
            # Inside the image; half a cell goes to the left.
            cell = min(max(math.floor(middle - width / 2), 0), GRID - width)
            x = round((cell + width / 2) / GRID, 4)
            if isinstance(entry, Stand):
                stand = replace(entry, x=x, y=GROUND / GRID)
            else:
                row = AIR if NOUNS[entry.noun].flies else GROUND
                things.append(replace(entry, x=x, y=row / GRID))
    setting = replace(scene.setting, view=0)
    return replace(scene, setting=setting, things=tuple(things), stand=stand)


def width_in_cells(entry: Entry) -> int:
    """The width of an entry's box."""
    width = HERO_HEIGHT if isinstance(entry, Stand) else width_of(entry.noun, entry.size)
    return max(1, round(width * GRID))


def cell_of(entry: Entry) -> int:
    """The cell at which the box of a composed entry begins."""
    return round(entry.x * GRID - width_in_cells(entry) / 2)

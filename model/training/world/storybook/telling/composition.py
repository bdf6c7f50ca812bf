"""How images that are to be drawn are composed: positions follow from the words alone.

In images to be read things stand anywhere. A request seldom says where exactly, and a decoder that
has to choose learns late what things look like: it averages over the choices first. So what it
learns to draw is composed: things stand in a row or at the sides that are named, before one view
of the place. Positions lie on the grid of the latents, whose values depend on how a thing lies on
it.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from model.training.world.storybook.telling.group import SIDES, groups, side_of

_GRID = 24  # Places of the latents along a side.
_GROUND, _AIR = 22 / _GRID, 12 / _GRID  # Lower edges.

_Entry = StorybookThing | Stand


def in_a_row(scene: StorybookScene, hero_first: bool = False) -> StorybookScene:
    """The same things in the same order, evenly spaced from left to right.

    Args:
        scene: with things that fit in a row.
        hero_first: put the hero before all things, for words that do not say their order.
    """
    entries = list(scene.entries)
    if hero_first:
        entries.sort(key=lambda entry: isinstance(entry, StorybookThing))
    lengths = [_length(entry) for entry in entries]
    gap = (1.0 - sum(lengths)) / (len(entries) + 1)
    edges = [gap * (number + 1) + sum(lengths[:number]) for number in range(len(entries))]
    return _placed(scene, entries, edges)


def at_sides(scene: StorybookScene) -> StorybookScene:
    """The same things in the same order, close together in the middle of the side they are at.

    Where they do not fit there, they are moved to the right, and then to the left, as far as
    needed.
    """
    clusters = [cluster for cluster in _by_side(scene) if cluster]
    lengths = [sum(map(_length, cluster)) for cluster in clusters]
    starts: list[float] = []
    for cluster, length in zip(clusters, lengths, strict=True):
        centre = (SIDES.index(_side(scene, cluster[0])) + 0.5) / len(SIDES)
        end_before = starts[-1] + lengths[len(starts) - 1] if starts else 0.0
        starts.append(max(centre - length / 2, end_before))
    limit = 1.0
    for number in reversed(range(len(starts))):
        starts[number] = limit = min(starts[number], limit - lengths[number])
    entries, edges = [], []
    for cluster, start in zip(clusters, starts, strict=True):
        for entry in cluster:
            entries.append(entry)
            edges.append(start)
            start += _length(entry)
    return _placed(scene, entries, edges)


def _by_side(scene: StorybookScene) -> list[list[_Entry]]:
    return [[e for e in scene.entries if _side(scene, e) == side] for side in SIDES]


def _side(scene: StorybookScene, entry: _Entry) -> str:
    """The side at which words tell an entry: that of its group."""
    if isinstance(entry, Stand):
        return side_of(entry.x)
    return next(group.side for group in groups(scene) if entry in group.things)


def _placed(
    scene: StorybookScene, entries: Sequence[_Entry], edges: Sequence[float]
) -> StorybookScene:
    """A scene with entries to the right of some edges, before the place's first view."""
    things: list[StorybookThing] = []
    stand = None
    for entry, edge in zip(entries, edges, strict=True):
        width = _width(entry)
        x = round(_on_grid(edge - width * OVERLAP / 2) + width / 2, 4)
        if isinstance(entry, Stand):
            stand = replace(entry, x=x, y=_GROUND)
        else:
            things.append(replace(entry, x=x, y=_AIR if NOUNS[entry.noun].flies else _GROUND))
    setting = replace(scene.setting, view=0)
    return replace(scene, setting=setting, things=tuple(things), stand=stand)


def _length(entry: _Entry) -> float:
    """How much of a row an entry takes."""
    return _width(entry) * (1 - OVERLAP)


def _width(entry: _Entry) -> float:
    if isinstance(entry, Stand):
        return HERO_HEIGHT
    return width_of(entry.noun, entry.size)


def _on_grid(position: float) -> float:
    return round(position * _GRID) / _GRID

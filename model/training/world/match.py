"""How well a picture shows what it should: attributes, and overlap of label maps."""

from __future__ import annotations

import numpy as np

from model.training.world.scene import LABELS, Scene

Matches = dict[str, bool]


def match_scene(wanted: Scene, seen: Scene) -> Matches:
    """Attribute by attribute; a thing's attributes count as missed if another stands there."""
    found = {thing.slot: thing for thing in seen.things}
    matches: Matches = {
        "place": wanted.background.place == seen.background.place,
        "weather": wanted.background.weather == seen.background.weather,
        "time": wanted.background.time == seen.background.time,
    }
    for thing in wanted.things:
        other = found.get(thing.slot)
        same = other is not None and other.kind == thing.kind
        matches[f"{thing.slot} object"] = same
        matches[f"{thing.slot} size"] = same and other is not None and other.size == thing.size
        if thing.colour is not None:
            is_colour = same and other is not None and other.colour == thing.colour
            matches[f"{thing.slot} colour"] = is_colour
    return matches


def match_hero(wanted: Scene, seen: Scene) -> Matches:
    """Whether the hero is there and looks the same."""
    if wanted.hero is None:
        raise ValueError("no hero is wanted")
    there = seen.hero is not None and seen.hero_slot == wanted.hero_slot
    hero = seen.hero
    return {
        "hero": there,
        "hero colour": there and hero is not None and hero.colour == wanted.hero.colour,
        "hero texture": there and hero is not None and hero.texture == wanted.hero.texture,
        "hero ears": there and hero is not None and hero.ears == wanted.hero.ears,
    }


def mean_overlap(wanted: Scene, seen: Scene) -> float:
    """Mean intersection over union of the label maps' classes that are wanted."""
    truth, read = wanted.label_map(), seen.label_map()
    ratios = []
    for label in range(len(LABELS)):
        if not (truth == label).any():
            continue
        both = np.logical_and(truth == label, read == label).sum()
        either = np.logical_or(truth == label, read == label).sum()
        ratios.append(both / either)
    return float(np.mean(ratios))


def box_overlap(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = sum(max(b[2] - b[0], 0.0) * max(b[3] - b[1], 0.0) for b in (first, second))
    return both / (areas - both) if areas > both else 0.0

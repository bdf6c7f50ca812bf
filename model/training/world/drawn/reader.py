"""Reads images back into scenes by synthesis, and compares scenes.

For each slot the reader takes the candidate whose painted image is nearest. On true images it is
nearly always right; the evaluation reports its accuracy beside every score.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.training.world.drawn.painting.background import (
    Background,
    all_backgrounds,
    background_image,
)
from model.training.world.drawn.painting.character import (
    EARS,
    TEXTURES,
    Character,
    character_sprite,
)
from model.training.world.drawn.painting.objects import object_sets
from model.training.world.drawn.painting.palette import CHARACTER_COLOURS
from model.training.world.drawn.painting.scene import (
    BASE_SIZE,
    BASELINE,
    HERO_PIXELS,
    LABELS,
    SIZES,
    SLOTS,
    Scene,
    Thing,
)

_Array = NDArray[np.float32]
_WINDOW = HERO_PIXELS
_NAMELESS = "hero"


@dataclass(frozen=True)
class Candidates:
    """Everything that can stand in a slot: colours [N, S, S, 3] and coverage [N, S, S, 1]."""

    items: tuple[Thing | Character | None, ...]
    colours_NSS3: _Array
    coverage_NSS1: _Array


def read_scene(image: Image.Image, object_set: str = "drawn") -> Scene:
    """The scene that an image of 96 pixels (or scaled to it) most looks like."""
    if image.size != (BASE_SIZE, BASE_SIZE):
        image = image.resize((BASE_SIZE, BASE_SIZE), Image.Resampling.BICUBIC)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
    background = _read_background(pixels)
    empty = np.asarray(background_image(background, BASE_SIZE), dtype=np.float32) / np.float32(255)
    things: list[Thing] = []
    hero: Character | None = None
    hero_slot = "left"
    for slot in SLOTS:
        item = _read_slot(pixels, empty, slot, object_set)
        if isinstance(item, Thing):
            things.append(Thing(item.kind, item.colour, item.size, slot))
        elif item is not None:
            hero, hero_slot = item, slot
    return Scene(background, tuple(things), hero, hero_slot)


def _read_background(pixels: _Array) -> Background:
    """The background that is nearest, with a limit on the distance of each pixel."""
    choices = all_backgrounds()
    empties = np.stack([_empty(choice) for choice in choices])
    distance = np.abs(empties - pixels).mean(-1)
    # Things cover the lower middle, where large distances must not dominate.
    return choices[int(np.minimum(distance, 0.25).mean((1, 2)).argmin())]


def _empty(background: Background) -> _Array:
    return np.asarray(background_image(background, BASE_SIZE), dtype=np.float32) / np.float32(255)


def _read_slot(
    pixels: _Array, empty: _Array, slot: str, object_set: str
) -> Thing | Character | None:
    """The candidate of a slot that is nearest when painted on the background."""
    left, top = SLOTS[slot] - _WINDOW // 2, BASELINE - _WINDOW
    rows, columns = slice(top, top + _WINDOW), slice(left, left + _WINDOW)
    window, under = pixels[rows, columns], empty[rows, columns]
    candidates = _candidates(object_set)
    painted = under * (1 - candidates.coverage_NSS1) + candidates.colours_NSS3
    return candidates.items[int(np.square(painted - window).mean((1, 2, 3)).argmin())]


@lru_cache(maxsize=4)
def _candidates(object_set: str) -> Candidates:
    """All things of a set in all colours and sizes, all heroes, and nothing."""
    items: list[Thing | Character | None] = [None]
    sprites = [Image.new("RGBA", (1, 1))]
    for chosen in object_sets(object_set):
        for kind, colour in product(chosen.kinds, chosen.colours):
            for size, side in SIZES.items():
                items.append(Thing(kind, colour, size, "left"))
                sprites.append(chosen.sprite(kind, colour, side))
    for colour in CHARACTER_COLOURS:
        for texture in TEXTURES:
            for ears in EARS:
                items.append(Character(_NAMELESS, colour, texture, ears))
                sprites.append(character_sprite(colour, texture, ears, HERO_PIXELS))
    canvases = np.stack([_on_window(sprite) for sprite in sprites])
    coverage = canvases[..., 3:]
    return Candidates(tuple(items), canvases[..., :3] * coverage, coverage)


def _on_window(sprite: Image.Image) -> _Array:
    """A sprite standing in the middle of the window, RGBA in [0, 1]."""
    canvas = Image.new("RGBA", (_WINDOW, _WINDOW))
    canvas.paste(sprite, ((_WINDOW - sprite.width) // 2, _WINDOW - sprite.height))
    return np.asarray(canvas, dtype=np.float32) / np.float32(255)


Matches = dict[str, bool]


def match_scene(wanted: Scene, seen: Scene) -> Matches:
    """Compare every attribute; those of a thing are wrong if another thing has its slot."""
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

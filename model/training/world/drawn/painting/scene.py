"""A scene is the content of an image. Rendering is exact, so a scene is its own ground truth."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.training.world.drawn.painting.background import (
    HORIZON,
    Background,
    background_image,
)
from model.training.world.drawn.painting.character import (
    Character,
    character_sprite,
)
from model.training.world.drawn.painting.objects import ALL_KINDS, KIND_TO_SET, object_sets

SIZES = {"small": 22, "big": 32}  # Pixels in an image of 96.
SLOTS = {"left": 18, "middle": 48, "right": 78}  # Centre of a thing, in pixels of 96.
BASELINE = 86  # Things stand here.
HERO_PIXELS = 36
BASE_SIZE = 96

# Classes of the label map: sky, ground, the hero, then every kind of every set.
LABELS = ("sky", "ground", "hero", *ALL_KINDS)


@dataclass(frozen=True)
class Thing:
    """One object of a scene. `colour` is None for things that come in their own colours."""

    kind: str
    colour: str | None
    size: str
    slot: str

    @classmethod
    def sample(cls, rng: random.Random, object_set: str, slot: str) -> Self:
        """A random thing of a set, or of any of several sets, in the given slot."""
        chosen = rng.choice(object_sets(object_set))
        return cls(
            rng.choice(chosen.kinds), rng.choice(chosen.colours), rng.choice(tuple(SIZES)), slot
        )


@dataclass(frozen=True)
class Scene:
    """A background, some things in different slots, and perhaps a hero in one more slot."""

    background: Background
    things: tuple[Thing, ...] = ()
    hero: Character | None = None
    hero_slot: str = "left"

    @classmethod
    def sample(cls, rng: random.Random, object_set: str = "drawn", max_things: int = 3) -> Self:
        """A random scene without a hero."""
        slots = rng.sample(tuple(SLOTS), rng.randint(1, max_things))
        things = tuple(Thing.sample(rng, object_set, slot) for slot in SLOTS if slot in slots)
        return cls(Background.sample(rng), _with_different_kinds(rng, things))

    def render(self, size: int = BASE_SIZE) -> Image.Image:
        """The image, RGB, `size` square."""
        canvas = background_image(self.background, size).copy()
        for sprite, corner, _ in self._layers(size):
            canvas.paste(sprite, corner, sprite)
        return canvas

    def label_map(self, size: int = BASE_SIZE) -> NDArray[np.uint8]:
        """The class of every pixel, [size, size], indices into `LABELS`."""
        labels = np.zeros((size, size), dtype=np.uint8)
        labels[int(HORIZON * size) :] = LABELS.index("ground")
        for sprite, (left, top), label in self._layers(size):
            inside = np.asarray(sprite)[:, :, 3] > 127
            rows = slice(max(top, 0), min(top + inside.shape[0], size))
            columns = slice(max(left, 0), min(left + inside.shape[1], size))
            part = inside[
                rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
            ]
            labels[rows, columns][part] = LABELS.index(label)
        return labels

    def foreground(self, size: int = BASE_SIZE) -> NDArray[np.bool_]:
        """Where things and the hero are, [size, size]."""
        return self.label_map(size) >= LABELS.index("hero")

    def box(self, slot: str) -> tuple[float, float, float, float]:
        """The box (x0, y0, x1, y1) of the thing or hero in `slot`, as fractions of the image.

        Raises:
            KeyError: nothing stands there.
        """
        for _, (left, top), pixels, where in self._placed(BASE_SIZE):
            if where == slot:
                edges = (left, top, left + pixels, top + pixels)
                x0, y0, x1, y1 = (min(max(edge / BASE_SIZE, 0.0), 1.0) for edge in edges)
                return x0, y0, x1, y1
        raise KeyError(slot)

    def _placed(self, size: int) -> list[tuple[Thing | Character, tuple[int, int], int, str]]:
        """The things and the hero, each with its corner, side in pixels, and slot."""
        scale = size / BASE_SIZE
        entries: list[tuple[Thing | Character, int, str]] = [
            (thing, SIZES[thing.size], thing.slot) for thing in self.things
        ]
        if self.hero is not None:
            entries.append((self.hero, HERO_PIXELS, self.hero_slot))
        placed = []
        for item, base_pixels, slot in entries:
            pixels = round(base_pixels * scale)
            corner = (round(SLOTS[slot] * scale - pixels / 2), round(BASELINE * scale) - pixels)
            placed.append((item, corner, pixels, slot))
        return placed

    def _layers(self, size: int) -> list[tuple[Image.Image, tuple[int, int], str]]:
        """Sprites with their corner and label, in painting order."""
        layers = []
        for item, corner, pixels, _ in self._placed(size):
            if isinstance(item, Thing):
                sprite = KIND_TO_SET[item.kind].sprite(item.kind, item.colour, pixels)
                layers.append((sprite, corner, item.kind))
            else:
                sprite = character_sprite(item.colour, item.texture, item.ears, pixels)
                layers.append((sprite, corner, "hero"))
        return layers


def _with_different_kinds(rng: random.Random, things: tuple[Thing, ...]) -> tuple[Thing, ...]:
    """The same things with no kind twice, so that "the boat" means one of them."""
    taken: set[str] = set()
    result = []
    for thing in things:
        kinds = KIND_TO_SET[thing.kind].kinds
        kind = thing.kind
        while kind in taken:
            kind = rng.choice(kinds)
        taken.add(kind)
        result.append(replace(thing, kind=kind))
    return tuple(result)

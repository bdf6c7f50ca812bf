"""A scene: a setting, some things, perhaps a hero. Rendering is exact, so it is its own truth.

Legend: S side of the image in pixels; 3 colours; h, w sprite. Positions are fractions of the side.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.training.world.drawable import Box
from model.training.world.storybook.assets.panoramas import to_image
from model.training.world.storybook.assets.sprites import sprite
from model.training.world.storybook.painting.hero import HEIGHT as HERO_HEIGHT
from model.training.world.storybook.painting.hero import Hero, hero_sprite
from model.training.world.storybook.painting.nouns import HEIGHTS, NOUNS
from model.training.world.storybook.painting.places import Setting, backdrop, precipitation

_Array = NDArray[np.float32]
Size = Literal["small", "normal", "big"]

SIZES: dict[Size, float] = {"small": 0.74, "normal": 1.0, "big": 1.32}
BASE_SIZE = 192
MAX_THINGS = 4
# Where things stand, and where they float, as fractions from the top.
_GROUND = (0.74, 0.95)
_AIR = (0.4, 0.6)
# How much of the narrower of two neighbours may lie behind the other.
OVERLAP = 0.12
_ATTEMPTS = 60
_SHADOW_ENDS = 2.0  # In reaches, where a shadow takes 3 in 100,000 off.
_SOLID = 0.5  # Opacity from which a pixel belongs to a sprite.


@dataclass(frozen=True)
class StorybookThing:
    """One thing. `x` is its middle and `y` its lower edge."""

    noun: str
    size: Size
    x: float
    y: float

    @property
    def height(self) -> float:
        """Length of the longer side of its sprite, as a fraction of the image."""
        return HEIGHTS[NOUNS[self.noun].stature] * SIZES[self.size]


@dataclass(frozen=True)
class Stand:
    """Where a hero stands."""

    hero: Hero
    x: float
    y: float

    @property
    def height(self) -> float:
        """Height of the hero without its token, as a fraction of the image."""
        return HERO_HEIGHT


@dataclass(frozen=True)
class Layer:
    """A sprite at its corner, in pixels; `grounded` ones throw a shadow."""

    pixels_hw4: _Array
    left: int
    top: int
    grounded: bool
    label: str


@dataclass(frozen=True)
class StorybookScene:
    """What an image shows. Things of one noun and size next to each other are told by number."""

    setting: Setting
    things: tuple[StorybookThing, ...] = ()
    stand: Stand | None = None

    @property
    def hero(self) -> Hero | None:
        """The hero, if there is one."""
        return self.stand.hero if self.stand else None

    @classmethod
    def sample(
        cls, rng: random.Random, max_things: int = MAX_THINGS, hero: Hero | None = None
    ) -> Self:
        """A random scene of one to `max_things` things, often several of one noun."""
        return cls.with_things(rng, Setting.sample(rng), sample_nouns(rng, max_things), hero)

    @classmethod
    def with_things(
        cls,
        rng: random.Random,
        setting: Setting,
        nouns: tuple[tuple[str, Size], ...],
        hero: Hero | None = None,
    ) -> Self:
        """A scene of given things at random free positions, from left to right as given."""
        for _ in range(_ATTEMPTS):
            scene = cls._placed(rng, setting, nouns, hero)
            if scene is not None:
                return scene
        # Too much for one row: the last thing is left out.
        return cls.with_things(rng, setting, nouns[:-1], hero)

    @classmethod
    def _placed(
        cls,
        rng: random.Random,
        setting: Setting,
        nouns: tuple[tuple[str, Size], ...],
        hero: Hero | None,
    ) -> Self | None:
        """One attempt: free intervals are shared out at random; None if there are none."""
        widths = [width_of(noun, size) for noun, size in nouns]
        slot = rng.randint(0, len(nouns)) if hero else -1
        if hero:
            widths.insert(slot, HERO_HEIGHT)
        free = 1.0 - sum(widths) * (1 - OVERLAP)
        if free < 0:
            return None
        gaps = sorted(rng.random() * free for _ in widths)
        edges = [gap + sum(widths[:i]) * (1 - OVERLAP) for i, gap in enumerate(gaps)]
        centres = [
            edge + width * (1 - OVERLAP) / 2 for edge, width in zip(edges, widths, strict=True)
        ]
        stand = None
        if hero:
            stand = Stand(hero, round(centres.pop(slot), 3), round(rng.uniform(0.82, 0.95), 3))
        things = []
        for (noun, size), x in zip(nouns, centres, strict=True):
            low, high = _AIR if NOUNS[noun].flies else _GROUND
            things.append(StorybookThing(noun, size, round(x, 3), round(rng.uniform(low, high), 3)))
        return cls(setting, tuple(things), stand)

    def render(self, size: int = BASE_SIZE) -> Image.Image:
        """The image, RGB, `size` square."""
        return to_image(self.pixels(size))

    def pixels(self, size: int = BASE_SIZE) -> _Array:
        """Display values [S, S, 3] in [0, 1]."""
        canvas = backdrop(self.setting, size).copy()
        light = np.array(self.setting.light, np.float32)
        for _, layer in self.layers(size):
            if layer.grounded:
                shade(canvas, layer)
            paste(canvas, layer, light)
        falling = precipitation(self.setting, size)
        if falling is not None:
            colour, coverage = falling
            canvas = canvas * (1 - coverage) + colour * coverage
        return canvas

    def instances(self, size: int = BASE_SIZE) -> NDArray[np.uint8]:
        """Which of `entries` each pixel shows, [S, S]: its index plus one, 0 for the place."""
        owners = np.zeros((size, size), np.uint8)
        numbers = {id(entry): number for number, entry in enumerate(self.entries, 1)}
        for entry, layer in self.layers(size):
            rows, columns, part = clip(layer, owners)
            owners[rows, columns][part[..., 3] > _SOLID] = numbers[id(entry)]
        return owners

    def foreground(self, size: int = BASE_SIZE) -> NDArray[np.bool_]:
        """Where things and the hero are, [S, S]."""
        return self.instances(size) > 0

    @property
    def entries(self) -> tuple[StorybookThing | Stand, ...]:
        """Things and hero from left to right."""
        entries: list[StorybookThing | Stand] = [*self.things]
        entries += [self.stand] if self.stand else []
        return tuple(sorted(entries, key=lambda entry: entry.x))

    def layers(self, size: int) -> Iterator[tuple[StorybookThing | Stand, Layer]]:
        """Sprites in painting order: what is farther away (higher up) first."""
        for entry in sorted(self.entries, key=lambda entry: entry.y):
            if isinstance(entry, StorybookThing):
                yield entry, thing_layer(entry, size)
            else:
                yield entry, hero_layer(entry, size)

    def boxes(self) -> dict[StorybookThing | Stand, Box]:
        """The box (x0, y0, x1, y1) in [0, 1] of every thing and of the hero."""
        return {entry: _box(layer) for entry, layer in self.layers(BASE_SIZE)}


def thing_layer(thing: StorybookThing, size: int) -> Layer:
    """A thing's sprite at its place."""
    noun = NOUNS[thing.noun]
    pixels = sprite(noun.code, round(thing.height * size))
    left = round(thing.x * size - pixels.shape[1] / 2)
    return Layer(pixels, left, round(thing.y * size) - pixels.shape[0], not noun.flies, thing.noun)


def hero_layer(stand: Stand, size: int) -> Layer:
    """A hero's sprite, with its body at the place of `stand`."""
    hero = stand.hero
    dressed = hero_sprite(
        hero.species, hero.colour, hero.pattern, hero.token, round(HERO_HEIGHT * size)
    )
    left, _, right, bottom = dressed.body
    x = round(stand.x * size - (left + right) / 2)
    return Layer(dressed.pixels_hw4, x, round(stand.y * size - bottom), True, "hero")


def sample_nouns(rng: random.Random, max_things: int) -> tuple[tuple[str, Size], ...]:
    """Random nouns with sizes: groups of one noun stand together, no noun is in two groups."""
    total = rng.randint(1, max_things)
    chosen: list[tuple[str, Size]] = []
    taken: set[str] = set()
    while len(chosen) < total:
        noun = rng.choice([name for name in NOUNS if name not in taken])
        taken.add(noun)
        number = 1
        if NOUNS[noun].counted and rng.random() < 0.25:
            number = rng.randint(2, 4)
        size = rng.choices(tuple(SIZES), (1, 3, 1))[0] if number == 1 else "normal"
        chosen += [(noun, size)] * min(number, total - len(chosen))
    return tuple(chosen)


def width_of(noun: str, size: Size) -> float:
    """Width of a thing as a fraction of the image."""
    pixels = sprite(NOUNS[noun].code, 64)
    width: int = pixels.shape[1]
    return HEIGHTS[NOUNS[noun].stature] * SIZES[size] * width / 64


def clip(layer: Layer, canvas: NDArray[Any]) -> tuple[slice, slice, _Array]:
    """Rows and columns of the canvas that a layer covers, and the covering part of its sprite."""
    height, width = layer.pixels_hw4.shape[:2]
    top, left = max(layer.top, 0), max(layer.left, 0)
    bottom, right = (
        min(layer.top + height, canvas.shape[0]),
        min(layer.left + width, canvas.shape[1]),
    )
    rows, columns = slice(top, max(bottom, top)), slice(left, max(right, left))
    part = layer.pixels_hw4[
        top - layer.top : rows.stop - layer.top, left - layer.left : columns.stop - layer.left
    ]
    return rows, columns, part


def paste(canvas_SS3: _Array, layer: Layer, light_3: _Array) -> None:
    """Blend a lit sprite in."""
    rows, columns, part = clip(layer, canvas_SS3)
    opacity = part[..., 3:]
    canvas_SS3[rows, columns] *= 1 - opacity
    canvas_SS3[rows, columns] += opacity * part[..., :3] * light_3


def shade(canvas_SS3: _Array, layer: Layer) -> None:
    """Darken the ground under a layer: an ellipse at its lower edge, soft at its border."""
    size = len(canvas_SS3)
    feet = layer.pixels_hw4[-max(2, layer.pixels_hw4.shape[0] // 6) :, :, 3].max(0)
    solid = np.flatnonzero(feet > 0.5)
    if not len(solid):
        return
    centre = layer.left + (solid[0] + solid[-1]) / 2
    half_width = max((solid[-1] - solid[0]) / 2 * 1.15, 2.0)
    bottom, half_height = layer.top + layer.pixels_hw4.shape[0] - 0.01 * size, 0.2 * half_width + 1
    rows, columns = _near(bottom, half_height, size), _near(centre, half_width, size)
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] + 0.5
    distance = ((x - centre) / half_width) ** 2 + ((y - bottom) / half_height) ** 2
    shadow = (1 - 0.5 * np.exp(-1.2 * distance**1.5)).astype(np.float32)
    canvas_SS3[rows, columns] *= shadow[..., None]


def _near(middle: float, reach: float, size: int) -> slice:
    """The pixels that a shadow of that reach darkens visibly."""
    first, last = middle - _SHADOW_ENDS * reach, middle + _SHADOW_ENDS * reach
    start = min(max(int(first), 0), size)
    return slice(start, min(max(int(last) + 1, start), size))


def _box(layer: Layer) -> Box:
    """A layer's box, cut to the image."""
    height, width = layer.pixels_hw4.shape[:2]
    edges = (layer.left, layer.top, layer.left + width, layer.top + height)
    x0, y0, x1, y1 = (min(max(edge / BASE_SIZE, 0.0), 1.0) for edge in edges)
    return x0, y0, x1, y1

"""Heroes: animals with a colouring and a token of their own.

In stories these exist only in the hero's image; requests tell some of them or all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model.training.world.storybook.assets.sprites import cutout, scaled

_Array = NDArray[np.float32]
Pattern = Literal["plain", "spotted", "striped"]
Point = tuple[float, float]

PATTERNS: tuple[Pattern, ...] = ("plain", "spotted", "striped")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.16, 0.18),
    "orange": (0.98, 0.55, 0.12),
    "yellow": (0.98, 0.85, 0.25),
    "green": (0.28, 0.72, 0.32),
    "blue": (0.22, 0.47, 0.92),
    "purple": (0.58, 0.32, 0.82),
    "pink": (0.98, 0.55, 0.75),
    "white": (0.95, 0.95, 0.97),
}
NAMES = (
    "Pip", "Mia", "Bo", "Lulu", "Tom", "Zoe", "Max", "Nina", "Otto", "Ruby", "Finn", "Ella",
    "Sam", "Tilly", "Leo", "Daisy", "Milo", "Wanda", "Gus", "Poppy",
)  # fmt: skip
# A colour and a token: the body as it lies in the package, and nothing on it.
UNTOLD = ""
# How much darker a pattern is than a body in its own colours.
_MARK = 0.5
# What is told of a hero in short, and how often: a plain coat and no token go without saying.
_PARTLY: dict[tuple[str, ...], int] = {
    ("colour",): 6,
    ("token",): 4,
    ("pattern",): 2,
    ("colour", "pattern"): 3,
    ("colour", "token"): 3,
    ("pattern", "token"): 2,
}
# A hero without its token has this height, as a fraction of the image.
HEIGHT = 0.36
_CANVAS = 256
_MARGIN = 80  # Space for a token that stands out above or beside the body.


@dataclass(frozen=True)
class Species:
    """An animal that can be a hero.

    Attributes:
        code: code point of its picture.
        crown: where a hat rests, in fractions of the body's box from its upper left corner.
        brim: width of a hat, as a fraction of the body's width.
        neck: centre of a scarf.
    """

    code: str
    crown: Point
    brim: float
    neck: Point


SPECIES: dict[str, Species] = {
    "cat": Species("1f408", (0.25, 0.16), 0.34, (0.29, 0.54)),
    "dog": Species("1f415", (0.26, 0.13), 0.34, (0.33, 0.5)),
    "rabbit": Species("1f407", (0.27, 0.28), 0.34, (0.33, 0.6)),
    "pig": Species("1f416", (0.27, 0.12), 0.3, (0.33, 0.6)),
    "elephant": Species("1f418", (0.2, 0.1), 0.3, (0.34, 0.62)),
    "mouse": Species("1f401", (0.22, 0.2), 0.28, (0.34, 0.62)),
    "chick": Species("1f424", (0.34, 0.05), 0.44, (0.3, 0.5)),
    "penguin": Species("1f427", (0.5, 0.05), 0.46, (0.5, 0.44)),
    "owl": Species("1f989", (0.5, 0.07), 0.62, (0.5, 0.52)),
    "bear": Species("1f43b", (0.5, 0.09), 0.5, (0.5, 0.84)),
    "frog": Species("1f438", (0.5, 0.13), 0.44, (0.5, 0.84)),
    "sheep": Species("1f411", (0.22, 0.06), 0.34, (0.3, 0.42)),
}


@dataclass(frozen=True)
class Token:
    """Something that a hero wears.

    Attributes:
        code: code point of its picture.
        phrase: how it is said: "with a crown".
        at_neck: worn at the neck instead of on the head.
        width: relative to the species' brim.
        offset: added to the place, in brims: a flower sits at the ear.
        sinks: how much of its height lies below the place that it rests on.
    """

    code: str
    phrase: str
    at_neck: bool = False
    width: float = 1.0
    offset: float = 0.0
    sinks: float = 0.15


TOKENS: dict[str, Token] = {
    "crown": Token("1f451", "with a crown"),
    "top hat": Token("1f3a9", "with a top hat", width=1.05, sinks=0.12),
    "sun hat": Token("1f452", "with a sun hat", width=1.35, sinks=0.3),
    "bow": Token("1f380", "with a bow", width=0.9, sinks=0.45),
    "flower": Token("1f33a", "with a flower at the ear", width=0.8, offset=0.45, sinks=0.6),
    "scarf": Token("1f9e3", "with a scarf", at_neck=True, width=1.1, sinks=0.5),
}


@dataclass(frozen=True)
class Hero:
    """How a hero looks; `name` is what the text calls it."""

    name: str
    species: str
    colour: str
    pattern: Pattern
    token: str

    @classmethod
    def sample(cls, rng: random.Random) -> Self:
        """A random hero."""
        return cls(
            rng.choice(NAMES),
            rng.choice(tuple(SPECIES)),
            rng.choice(tuple(COLOURS)),
            rng.choice(PATTERNS),
            rng.choice(tuple(TOKENS)),
        )

    def partly(self, rng: random.Random) -> Self:
        """The hero with a part of its look alone: "a blue cat", "a cat with a crown"."""
        (told,) = rng.choices(tuple(_PARTLY), tuple(_PARTLY.values()))
        return replace(
            self,
            colour=self.colour if "colour" in told else UNTOLD,
            pattern=rng.choice(PATTERNS[1:]) if "pattern" in told else "plain",
            token=self.token if "token" in told else UNTOLD,
        )


@dataclass(frozen=True)
class HeroSprite:
    """A hero's sprite, and where its body lies in it.

    Attributes:
        pixels_hw4: RGBA in [0, 1].
        body: left, top, right, bottom of the body in pixels of the sprite.
    """

    pixels_hw4: _Array
    body: tuple[float, float, float, float]


@lru_cache(maxsize=8192)
def hero_sprite(species: str, colour: str, pattern: str, token: str, height: int) -> HeroSprite:
    """A hero whose body is `height` pixels high."""
    canvas, (width, tall) = _dressed(species, colour, pattern, token)
    box = canvas.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    assert box is not None
    ratio = height / tall
    cut = canvas.crop(box)
    small = scaled(cut, max(1, round(max(cut.size) * ratio)))
    left, top = (_MARGIN - box[0]) * ratio, (_MARGIN - box[1]) * ratio
    pixels = np.asarray(small, np.float32) / np.float32(255)
    return HeroSprite(pixels, (left, top, left + width * ratio, top + tall * ratio))


@lru_cache(maxsize=1024)
def _dressed(
    species: str, colour: str, pattern: str, token: str
) -> tuple[Image.Image, tuple[int, int]]:
    """The hero on a canvas with a margin of `_MARGIN`, and the body's width and height there."""
    kind = SPECIES[species]
    body = scaled(cutout(kind.code), _CANVAS)
    width, tall = body.size
    canvas = Image.new("RGBA", (width + 2 * _MARGIN, tall + 2 * _MARGIN))
    painted = _marked(body, pattern) if colour == UNTOLD else _painted(body, colour, pattern)
    canvas.paste(painted, (_MARGIN, _MARGIN))
    if token != UNTOLD:
        worn = TOKENS[token]
        picture = scaled_to_width(cutout(worn.code), round(kind.brim * worn.width * width))
        x, y = kind.neck if worn.at_neck else kind.crown
        centre = _MARGIN + (x + worn.offset * kind.brim) * width
        bottom = _MARGIN + y * tall + worn.sinks * picture.height
        canvas.alpha_composite(
            picture, (round(centre - picture.width / 2), round(bottom - picture.height))
        )
    return canvas, (width, tall)


def scaled_to_width(picture: Image.Image, width: int) -> Image.Image:
    """An RGBA picture of a given width."""
    return scaled(picture, round(width * max(picture.size) / picture.width))


def _marked(body: Image.Image, pattern: str) -> Image.Image:
    """The body in its own colours, darker where the pattern is."""
    rgba = np.asarray(body, np.float32)
    marked = np.asarray(_pattern_mask(pattern, body.size), np.float32)[..., None] / 255
    rgba = np.concatenate((rgba[..., :3] * (1 - _MARK * marked), rgba[..., 3:]), -1)
    return Image.fromarray((rgba + 0.5).astype(np.uint8), "RGBA")


def _painted(body: Image.Image, colour: str, pattern: str) -> Image.Image:
    """The body in another colour and pattern; eyes and other dark parts stay."""
    rgba = np.asarray(body, np.float32) / 255
    luminance = rgba[..., :3] @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    opaque = rgba[..., 3] > 0.5
    bright = opaque & (luminance > 0.2)
    middle = float(np.median(luminance[bright]))
    base = np.array(COLOURS[colour], np.float32)
    other = base * 0.5 if base.mean() > 0.6 else base + (1 - base) * 0.62
    marked = np.asarray(_pattern_mask(pattern, body.size), np.float32)[..., None] / 255
    paint = base * (1 - marked) + other.astype(np.float32) * marked
    shade = (luminance / middle)[..., None]
    lit = np.where(
        shade <= 1, paint * shade, paint + (1 - paint) * np.minimum((shade - 1) * 0.7, 0.75)
    )
    # Fades from the picture's own dark parts to the paint.
    amount = np.clip((luminance - 0.12) / 0.14, 0, 1)[..., None]
    rgba = np.concatenate((rgba[..., :3] * (1 - amount) + lit * amount, rgba[..., 3:]), -1)
    return Image.fromarray((np.clip(rgba, 0, 1) * 255 + 0.5).astype(np.uint8), "RGBA")


def _pattern_mask(pattern: str, size: tuple[int, int]) -> Image.Image:
    """Where the second colour goes, 0 to 255."""
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    width, height = size
    step = _CANVAS // 5
    if pattern == "spotted":
        radius = step * 0.27
        for row in range(-1, height // step + 2):
            for column in range(-1, width // step + 2):
                x, y = (column + 0.5 * (row % 2)) * step, (row + 0.4) * step
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    elif pattern == "striped":
        for start in range(-height, width, round(step * 0.9)):
            pen.line((start, height, start + height, 0), fill=255, width=round(step * 0.3))
    return mask

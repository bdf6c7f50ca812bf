"""The hero of a story: its colouring, texture and ears exist only in its image."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from PIL import Image, ImageChops, ImageDraw

from model.training.world.drawn.painting.palette import CHARACTER_COLOURS, OUTLINE, Rgb

TEXTURES = ("plain", "striped", "dotted")
EARS = ("round", "long")
NAMES = ("Pip", "Mia", "Bo", "Lulu", "Tom", "Zoe", "Max", "Nina")
CANVAS = 144
_LINE = 5
_BODY = (22, 40, 122, 134)


@dataclass(frozen=True)
class Character:
    """How a hero looks; `name` is what the text calls it."""

    name: str
    colour: str
    texture: str
    ears: str

    @classmethod
    def sample(cls, rng: random.Random) -> Self:
        """A random hero."""
        return cls(
            name=rng.choice(NAMES),
            colour=rng.choice(tuple(CHARACTER_COLOURS)),
            texture=rng.choice(TEXTURES),
            ears=rng.choice(EARS),
        )


@lru_cache(maxsize=256)
def character_sprite(colour: str, texture: str, ears: str, pixels: int) -> Image.Image:
    """The hero's image, RGBA, `pixels` square."""
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(canvas)
    body = CHARACTER_COLOURS[colour]
    for x in (34, 110):
        box = (x - 20, 18, x + 20, 58) if ears == "round" else (x - 12, 2, x + 12, 74)
        draw.ellipse(box, fill=body, outline=OUTLINE, width=_LINE)
    for x in (50, 94):
        draw.ellipse((x - 16, 122, x + 16, 142), fill=OUTLINE)
    draw.ellipse(_BODY, fill=body, outline=OUTLINE, width=_LINE)
    _paint_texture(canvas, texture, _accent(colour))
    for x in (54, 90):
        draw.ellipse((x - 13, 54, x + 13, 82), fill=(255, 255, 255), outline=OUTLINE, width=4)
        draw.ellipse((x - 5, 62, x + 7, 76), fill=OUTLINE)
    return canvas.resize((pixels, pixels), Image.Resampling.LANCZOS)


def _accent(colour: str) -> Rgb:
    """The texture's colour: dark on light heroes, white on the others."""
    return (70, 60, 90) if colour in ("white", "yellow", "pink") else (255, 255, 255)


def _paint_texture(canvas: Image.Image, texture: str, accent: Rgb) -> None:
    """Paint stripes or dots on the lower body."""
    layer = Image.new("L", canvas.size)
    draw = ImageDraw.Draw(layer)
    if texture == "striped":
        for y in (90, 110):
            draw.rectangle((0, y, CANVAS, y + 9), fill=255)
    elif texture == "dotted":
        for x, y in ((46, 98), (72, 98), (98, 98), (58, 118), (86, 118)):
            draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=255)
    inside = Image.new("L", canvas.size)
    x0, y0, x1, y1 = _BODY
    ImageDraw.Draw(inside).ellipse((x0 + _LINE, y0 + _LINE, x1 - _LINE, y1 - _LINE), fill=255)
    canvas.paste(accent, (0, 0), ImageChops.multiply(layer, inside))

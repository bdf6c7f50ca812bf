"""Places, weather and times of day."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from PIL import Image, ImageDraw

from model.training.world.drawn.painting.palette import Rgb, shade

PLACES = ("meadow", "beach", "mountain", "city")
WEATHERS = ("sunny", "cloudy", "rainy")
TIMES = ("day", "evening", "night")

HORIZON = 0.56  # Height of the horizon as a part of the image.
_OVERSAMPLE = 4
_SKY: dict[str, Rgb] = {"day": (140, 205, 250), "evening": (250, 175, 130), "night": (35, 40, 95)}
_GROUND: dict[str, Rgb] = {
    "meadow": (125, 200, 95),
    "beach": (240, 220, 160),
    "mountain": (235, 240, 250),
    "city": (160, 160, 165),
}
_LIGHT = {"day": 1.0, "evening": 0.85, "night": 0.55}
_Draw = ImageDraw.ImageDraw


@dataclass(frozen=True)
class Background:
    """Where and when a scene happens."""

    place: str
    weather: str
    time: str

    @classmethod
    def sample(cls, rng: random.Random) -> Self:
        """A random background."""
        return cls(rng.choice(PLACES), rng.choice(WEATHERS), rng.choice(TIMES))


def all_backgrounds() -> tuple[Background, ...]:
    """Every background, in a fixed order."""
    return tuple(Background(p, w, t) for p in PLACES for w in WEATHERS for t in TIMES)


@lru_cache(maxsize=64)
def background_image(background: Background, size: int) -> Image.Image:
    """The empty image of `background`, RGB, `size` square. Copy it before painting on it."""
    side = size * _OVERSAMPLE
    light = _LIGHT[background.time]
    sky = _SKY[background.time]
    if background.weather != "sunny":
        grey = 190 * (0.35 if background.time == "night" else 1.0)
        sky = _mix(sky, (int(grey), int(grey), int(grey) + 15), 0.5)
    canvas = Image.new("RGB", (side, side), sky)
    draw = ImageDraw.Draw(canvas)
    _paint_place(draw, background.place, side, light)
    _paint_weather(draw, background, side)
    return canvas.resize((size, size), Image.Resampling.BOX)


def _mix(a: Rgb, b: Rgb, part: float) -> Rgb:
    red, green, blue = (int(x * (1 - part) + y * part) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _paint_place(draw: _Draw, place: str, side: int, light: float) -> None:
    """Paint the far background and the ground."""
    horizon = int(side * HORIZON)
    u = side / 96
    if place == "meadow":
        hill = shade((90, 170, 80), light)
        draw.ellipse((-20 * u, horizon - 14 * u, 60 * u, horizon + 40 * u), fill=hill)
        draw.ellipse((40 * u, horizon - 9 * u, 130 * u, horizon + 40 * u), fill=hill)
    elif place == "beach":
        draw.rectangle((0, horizon - 12 * u, side, horizon), fill=shade((50, 130, 200), light))
    elif place == "mountain":
        for x, height in ((16, 26), (52, 32), (84, 22)):
            peak = (x * u, horizon - height * u)
            base = [(x * u - 24 * u, horizon), (x * u + 24 * u, horizon)]
            draw.polygon([peak, *base], fill=shade((120, 115, 140), light))
            cap = [(x * u - 7 * u, peak[1] + 9 * u), (x * u + 7 * u, peak[1] + 9 * u)]
            draw.polygon([peak, *cap], fill=shade((250, 250, 255), light))
    else:
        for x, height in ((4, 20), (22, 28), (44, 16), (60, 30), (78, 22)):
            tower = (x * u, horizon - height * u, (x + 15) * u, horizon)
            draw.rectangle(tower, fill=shade((130, 110, 120), light))
    draw.rectangle((0, horizon, side, side), fill=shade(_GROUND[place], light))


def _paint_weather(draw: _Draw, background: Background, side: int) -> None:
    """Paint sun or moon, clouds and rain."""
    u = side / 96
    if background.weather == "sunny":
        disc = {"day": (255, 235, 90), "evening": (255, 110, 60), "night": (245, 240, 210)}
        draw.ellipse((74 * u, 5 * u, 90 * u, 21 * u), fill=disc[background.time])
        return
    wet = background.weather == "rainy"
    grey = shade((120, 125, 140) if wet else (245, 245, 250), _LIGHT[background.time])
    for x, y in ((16, 11), (58, 8)):
        for dx, dy, radius in ((0, 3, 7), (9, 0, 9), (18, 3, 7)):
            box = ((x + dx - radius) * u, (y + dy - radius) * u)
            draw.ellipse((*box, (x + dx + radius) * u, (y + dy + radius) * u), fill=grey)
    if wet:
        for x, y in ((14, 26), (26, 32), (36, 25), (54, 30), (66, 24), (78, 31)):
            draw.line(
                (x * u, y * u, (x - 2) * u, (y + 6) * u), fill=(90, 140, 220), width=int(2 * u)
            )

"""Places: views of the panoramas, at a time of day, in some weather."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from model.training.world.storybook.assets.panoramas import developed, panorama, view

_Array = NDArray[np.float32]
Time = Literal["morning", "day", "evening", "night"]
Weather = Literal["clear", "rain", "snow", "fog"]

TIMES: tuple[Time, ...] = ("morning", "day", "evening", "night")
WEATHERS: tuple[Weather, ...] = ("clear", "rain", "snow", "fog")

FIELD_OF_VIEW = 72.0
PITCH = -9.0
# Height of the horizon as a fraction of the image, from the top.
HORIZON = 0.5 + np.tan(np.radians(PITCH)) / (2 * np.tan(np.radians(FIELD_OF_VIEW) / 2))


@dataclass(frozen=True)
class Place:
    """A panorama and the directions in which it is worth looking.

    Attributes:
        panorama: its name in the package.
        phrase: where something is that is there: "in the forest".
        yaws: degrees to the right of the panorama's centre.
        exposure: brightens (over 1) or darkens the panorama before grading.
        indoors: whether there is no weather.
    """

    panorama: str
    phrase: str
    yaws: tuple[int, ...]
    exposure: float = 1.0
    indoors: bool = False


PLACES: dict[str, Place] = {
    "living room": Place("apartment", "in the living room", (0, 45, 120, 225), 0.9, indoors=True),
    "bridge": Place("bridge", "on the glass bridge", (45, 135, 270, 315), 0.9, indoors=True),
    "city": Place("city", "in the city", (0, 45, 100, 180, 225, 290), 0.75),
    "desert": Place("dawn", "in the desert", (0, 90, 135, 180, 225, 270), 0.7),
    "mall": Place("esplanade", "in the shopping mall", (0, 45, 290, 315), 1.0, indoors=True),
    "forest": Place("forest", "in the forest", (0, 45, 90, 135, 225, 315), 0.85),
    "ballroom": Place("hall", "in the ballroom", (45, 90, 135, 180, 270), 0.9, indoors=True),
    "laboratory": Place("lab", "in the laboratory", (0, 90, 180, 225, 270), 0.9, indoors=True),
    "lobby": Place("lobby", "in the lobby", (0, 45, 135, 180, 225, 270), 0.85, indoors=True),
    "savanna": Place("night", "in the savanna", (0, 45, 100, 135, 180, 315), 0.55),
    "meadow": Place("park", "in the meadow", (45, 135, 180, 225, 270, 315), 0.8),
    "field": Place("sunrise", "in the field", (0, 90, 135, 180, 225, 270), 0.75),
    "old town": Place("sunset", "in the old town", (0, 45, 135, 180, 225, 270), 0.7),
    "harbour": Place("venice", "at the harbour", (20, 55, 90, 135, 225, 270), 0.65),
    "warehouse": Place("warehouse", "in the warehouse", (0, 45, 135, 225, 270), 0.9, indoors=True),
    "workshop": Place("workshop", "in the workshop", (0, 135, 180, 225, 300), 0.8, indoors=True),
}


@dataclass(frozen=True)
class Grade:
    """How a time of day changes the light: a factor per colour, saturation, sprites' exposure."""

    factors: tuple[float, float, float]
    saturation: float


GRADES: dict[Time, Grade] = {
    "morning": Grade((1.08, 0.94, 0.92), 0.85),
    "day": Grade((1.0, 1.0, 1.0), 1.0),
    "evening": Grade((1.02, 0.72, 0.46), 1.05),
    "night": Grade((0.16, 0.22, 0.42), 0.6),
}
_OVERCAST = {"clear": 1.0, "rain": 0.72, "snow": 0.9, "fog": 0.85}


@dataclass(frozen=True)
class Setting:
    """Where and when a scene happens; `view` counts the place's yaws."""

    place: str
    view: int
    time: Time
    weather: Weather = "clear"

    @classmethod
    def sample(cls, rng: random.Random) -> Self:
        """A random setting: clear or indoors as often as all other weather together."""
        name = rng.choice(tuple(PLACES))
        place = PLACES[name]
        weather: Weather = "clear"
        if not place.indoors and rng.random() < 0.5:
            weather = rng.choice(WEATHERS[1:])
        return cls(name, rng.randrange(len(place.yaws)), rng.choice(TIMES), weather)

    @property
    def light(self) -> tuple[float, float, float]:
        """The factors by which things at this setting are lit, in display values."""
        grade, overcast = GRADES[self.time], _OVERCAST[self.weather]
        red, green, blue = (float((f * overcast) ** (1 / 2.6)) for f in grade.factors)
        return red, green, blue


def all_settings() -> tuple[Setting, ...]:
    """Every setting, in a fixed order."""
    return tuple(
        Setting(name, number, time, weather)
        for name, place in PLACES.items()
        for number in range(len(place.yaws))
        for time in TIMES
        for weather in (WEATHERS[:1] if place.indoors else WEATHERS)
    )


@lru_cache(maxsize=512)
def _radiance(place: str, number: int, size: int) -> _Array:
    """The ungraded view, linear light [size, size, C]."""
    chosen = PLACES[place]
    yaw = float(chosen.yaws[number])
    return view(panorama(chosen.panorama), yaw, PITCH, FIELD_OF_VIEW, size) * chosen.exposure


@lru_cache(maxsize=2048)
def backdrop(setting: Setting, size: int) -> _Array:
    """The empty place in display values [size, size, C], without what falls in front of things."""
    radiance = _radiance(setting.place, setting.view, size)
    grade = GRADES[setting.time]
    grey = radiance.mean(-1, keepdims=True)
    # Bad weather takes colour and sunlight away.
    saturation = grade.saturation * (1.0 if setting.weather == "clear" else 0.6)
    graded = np.maximum(grey + (radiance - grey) * saturation, 0)
    graded = graded * (np.array(grade.factors, np.float32) * _OVERCAST[setting.weather])
    pixels = developed(graded)
    return _fog(pixels, setting) if setting.weather == "fog" else pixels


def _fog(pixels: _Array, setting: Setting) -> _Array:
    """Mix a grey veil in: thickest at the horizon, thinner toward the viewer and the sky."""
    size = len(pixels)
    y = (np.arange(size, dtype=np.float32) + 0.5) / size
    depth = np.where(y < HORIZON, 1 - 0.3 * (HORIZON - y), np.exp(-3.2 * (y - HORIZON)))
    veil = (0.88 * depth)[:, None, None].astype(np.float32)
    colour = np.array(setting.light, np.float32) * np.float32(0.86)
    return pixels * (1 - veil) + colour * veil


@lru_cache(maxsize=512)
def precipitation(setting: Setting, size: int) -> tuple[_Array, _Array] | None:
    """What falls in front of the whole scene: colour [C] and coverage [size, size, 1], or None.

    The pattern depends on place and view alone, so that the reader can paint it again.
    """
    if setting.weather not in ("rain", "snow"):
        return None
    rng = random.Random(f"{setting.place}/{setting.view}/{setting.weather}")
    side = 4 * size
    layer = Image.new("L", (side, side))
    pen = ImageDraw.Draw(layer)
    for _ in range(110 if setting.weather == "rain" else 150):
        x, y, near = rng.random() * side, rng.random() * side, rng.random()
        if setting.weather == "rain":
            length = (0.05 + 0.06 * near) * side
            pen.line(
                (x, y, x - 0.22 * length, y + length), fill=int(90 + 90 * near), width=side // 220
            )
        else:
            radius = (0.003 + 0.007 * near) * side
            pen.ellipse(
                (x - radius, y - radius, x + radius, y + radius), fill=int(150 + 100 * near)
            )
    soft = layer.filter(ImageFilter.GaussianBlur(side / 400))
    small = soft.resize((size, size), Image.Resampling.BOX)
    coverage = np.asarray(small, np.float32) / np.float32(255)
    brightness = np.float32(0.85 if setting.weather == "rain" else 1.0)
    strength = np.float32(0.55 if setting.weather == "rain" else 0.95)
    colour = np.sqrt(np.array(setting.light, np.float32)) * brightness
    return colour, coverage[..., None] * strength

"""Colours of the world by name."""

from __future__ import annotations

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (220, 40, 45),
    "blue": (45, 95, 225),
    "yellow": (250, 215, 50),
    "green": (40, 165, 70),
    "purple": (150, 65, 190),
    "orange": (250, 135, 30),
}

CHARACTER_COLOURS: dict[str, Rgb] = COLOURS | {"pink": (245, 140, 185), "white": (245, 245, 245)}

OUTLINE: Rgb = (40, 35, 50)


def shade(colour: Rgb, factor: float) -> Rgb:
    """`colour` made darker (factor < 1) or mixed with white (factor > 1)."""
    if factor <= 1:
        red, green, blue = (int(channel * factor) for channel in colour)
    else:
        red, green, blue = (int(255 - (255 - channel) * (2 - factor)) for channel in colour)
    return red, green, blue

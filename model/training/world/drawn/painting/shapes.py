"""The built-in object set: eight things drawn in any of the six colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from PIL import Image, ImageDraw

from model.training.world.drawn.painting.palette import COLOURS, OUTLINE, Rgb, shade

CANVAS = 128  # Images are drawn large and scaled down, which smooths their edges.
LINE = 4
WHITE: Rgb = (250, 250, 250)
BROWN: Rgb = (125, 80, 45)
GLASS: Rgb = (190, 225, 245)
_Draw = ImageDraw.ImageDraw


def _house(draw: _Draw, colour: Rgb) -> None:
    draw.rectangle((20, 58, 108, 124), fill=colour, outline=OUTLINE, width=LINE)
    draw.polygon(
        [(8, 60), (64, 8), (120, 60)], fill=shade(colour, 0.6), outline=OUTLINE, width=LINE
    )
    draw.rectangle((52, 84, 78, 124), fill=BROWN, outline=OUTLINE, width=LINE)
    draw.rectangle((86, 74, 102, 92), fill=GLASS, outline=OUTLINE, width=LINE)
    draw.rectangle((27, 74, 43, 92), fill=GLASS, outline=OUTLINE, width=LINE)


def _tree(draw: _Draw, colour: Rgb) -> None:
    draw.rectangle((54, 76, 74, 124), fill=BROWN, outline=OUTLINE, width=LINE)
    draw.ellipse((16, 6, 112, 90), fill=colour, outline=OUTLINE, width=LINE)


def _boat(draw: _Draw, colour: Rgb) -> None:
    draw.polygon([(60, 8), (60, 82), (14, 82)], fill=WHITE, outline=OUTLINE, width=LINE)
    draw.polygon([(68, 18), (68, 82), (108, 82)], fill=WHITE, outline=OUTLINE, width=LINE)
    hull = [(4, 88), (124, 88), (102, 124), (26, 124)]
    draw.polygon(hull, fill=colour, outline=OUTLINE, width=LINE)


def _car(draw: _Draw, colour: Rgb) -> None:
    draw.polygon([(30, 70), (44, 40), (88, 40), (104, 70)], fill=GLASS, outline=OUTLINE, width=LINE)
    draw.rounded_rectangle((4, 66, 124, 108), 14, fill=colour, outline=OUTLINE, width=LINE)
    for x in (20, 78):
        draw.ellipse((x, 92, x + 32, 124), fill=OUTLINE)
        draw.ellipse((x + 10, 102, x + 22, 114), fill=WHITE)


def _ball(draw: _Draw, colour: Rgb) -> None:
    draw.ellipse((18, 32, 110, 124), fill=colour, outline=OUTLINE, width=LINE)
    draw.chord((18, 32, 110, 124), 160, 380, fill=WHITE, outline=OUTLINE, width=LINE)
    draw.chord((18, 32, 110, 124), 20, 160, fill=colour, outline=OUTLINE, width=LINE)


def _flower(draw: _Draw, colour: Rgb) -> None:
    draw.rectangle((59, 70, 69, 124), fill=(30, 120, 50))
    draw.ellipse((66, 92, 100, 110), fill=(30, 120, 50))
    for x, y in ((64, 22), (94, 44), (83, 78), (45, 78), (34, 44)):
        draw.ellipse((x - 21, y - 21, x + 21, y + 21), fill=colour, outline=OUTLINE, width=LINE)
    draw.ellipse((46, 36, 82, 72), fill=(255, 235, 150), outline=OUTLINE, width=LINE)


def _mushroom(draw: _Draw, colour: Rgb) -> None:
    draw.rounded_rectangle((46, 62, 82, 124), 12, fill=(245, 235, 215), outline=OUTLINE, width=LINE)
    draw.chord((8, 12, 120, 130), 180, 360, fill=colour, outline=OUTLINE, width=LINE)
    for x, y in ((40, 48), (66, 30), (90, 50)):
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=WHITE)


def _balloon(draw: _Draw, colour: Rgb) -> None:
    draw.line([(64, 84), (60, 104), (66, 124)], fill=OUTLINE, width=LINE)
    draw.polygon([(64, 78), (54, 92), (74, 92)], fill=colour, outline=OUTLINE, width=LINE)
    draw.ellipse((28, 4, 100, 84), fill=colour, outline=OUTLINE, width=LINE)
    draw.ellipse((42, 18, 58, 38), fill=shade(colour, 1.7))


_SHAPES: dict[str, Callable[[_Draw, Rgb], None]] = {
    "house": _house,
    "tree": _tree,
    "boat": _boat,
    "car": _car,
    "ball": _ball,
    "flower": _flower,
    "mushroom": _mushroom,
    "balloon": _balloon,
}


class DrawnShapes:
    """Things drawn by this module; every kind comes in every colour."""

    name = "drawn"
    kinds = tuple(_SHAPES)
    colours: tuple[str | None, ...] = tuple(COLOURS)

    @staticmethod
    def available() -> bool:
        """Always: they are drawn here."""
        return True

    @lru_cache(maxsize=256)  # noqa: B019 - one instance lives as long as the process
    def sprite(self, kind: str, colour: str | None, pixels: int) -> Image.Image:
        """The image of one thing, RGBA, `pixels` square."""
        if colour is None:
            raise ValueError(f"a drawn {kind} needs a colour")
        canvas = Image.new("RGBA", (CANVAS, CANVAS))
        _SHAPES[kind](ImageDraw.Draw(canvas), COLOURS[colour])
        return canvas.resize(
            (pixels, pixels),
            Image.Resampling.BOX if 128 % pixels == 0 else Image.Resampling.LANCZOS,
        )

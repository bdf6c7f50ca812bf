"""The sets of objects that a scene can hold: drawn shapes and emoji, behind one interface.

Emoji come from the font that Linux distributions ship (Debian: `fonts-noto-color-emoji`). Nothing
of the font is stored; the set exists only where the font is installed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageDraw, ImageFont

from model.training.world.drawn.painting.shapes import DrawnShapes

FONT_PATH = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # The only size of the font's bitmaps.
CANVAS = 136

EMOJI = {
    "cat": "\N{CAT FACE}",
    "fox": "\N{FOX FACE}",
    "frog": "\N{FROG FACE}",
    "pig": "\N{PIG FACE}",
    "bear": "\N{BEAR FACE}",
    "chick": "\N{FRONT-FACING BABY CHICK}",
    "apple": "\N{RED APPLE}",
    "rocket": "\N{ROCKET}",
    "cactus": "\N{CACTUS}",
    "gift": "\N{WRAPPED PRESENT}",
}


class EmojiImages:
    """Animals, plants and things in their own colours."""

    name = "emoji"
    kinds = tuple(EMOJI)
    colours: tuple[str | None, ...] = (None,)

    @staticmethod
    def available() -> bool:
        """Whether the font is installed."""
        return FONT_PATH.is_file()

    @lru_cache(maxsize=256)  # noqa: B019 - one instance lives as long as the process
    def sprite(self, kind: str, colour: str | None, pixels: int) -> Image.Image:
        """The image of one thing, RGBA, `pixels` square."""
        if colour is not None:
            raise ValueError("emoji have their own colours")
        font = ImageFont.truetype(str(FONT_PATH), FONT_SIZE)
        canvas = Image.new("RGBA", (CANVAS, CANVAS))
        ImageDraw.Draw(canvas).text(
            (CANVAS // 2, CANVAS // 2), EMOJI[kind], font=font, embedded_color=True, anchor="mm"
        )
        box = canvas.getbbox()
        side = CANVAS if box is None else max(box[2] - box[0], box[3] - box[1])
        square = Image.new("RGBA", (side, side))
        if box is not None:
            left = (side - (box[2] - box[0])) // 2
            square.paste(canvas.crop(box), (left, side - (box[3] - box[1])))
        return square.resize((pixels, pixels), Image.Resampling.LANCZOS)


class ObjectSet(Protocol):
    """Kinds of things, the colours they come in, and their images."""

    name: str
    kinds: tuple[str, ...]
    colours: tuple[str | None, ...]

    def available(self) -> bool:
        """Whether its images are available on this machine."""
        ...

    def sprite(self, kind: str, colour: str | None, pixels: int) -> Image.Image:
        """The image of one thing, RGBA, `pixels` square."""
        ...


OBJECT_SETS: dict[str, ObjectSet] = {"drawn": DrawnShapes(), "emoji": EmojiImages()}

KIND_TO_SET: dict[str, ObjectSet] = {
    kind: object_set for object_set in OBJECT_SETS.values() for kind in object_set.kinds
}

ALL_KINDS = tuple(KIND_TO_SET)


def object_sets(names: str) -> tuple[ObjectSet, ...]:
    """The sets of a name, or of several names joined by "+".

    Raises:
        ValueError: there is no set of that name.
    """
    if unknown := set(names.split("+")) - OBJECT_SETS.keys():
        known = ", ".join(OBJECT_SETS)
        raise ValueError(f"unknown sets of objects {sorted(unknown)}; known: {known}")
    return tuple(OBJECT_SETS[name] for name in names.split("+"))


def available_sets() -> str:
    """The sets that are available on this machine, joined by "+"."""
    return "+".join(name for name, each in OBJECT_SETS.items() if each.available())

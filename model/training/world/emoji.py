"""The second object set: pictures of the emoji font that Linux distributions ship.

Nothing of the font is stored; the set exists only where the font is installed
(Debian: `fonts-noto-color-emoji`).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

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


class EmojiPictures:
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
        """The picture of one thing, RGBA, `pixels` square."""
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

"""3D pictures of things: RGBA sprites cut to what is opaque.

Legend: h, w sprite; 4 = red, green, blue, opacity, not premultiplied.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.training.world.storybook.assets import packages

_Array = NDArray[np.float32]


@cache
def cutout(code: str, folder: Path = packages.DEFAULT_FOLDER) -> Image.Image:
    """The picture of a code point at full size, RGBA, cropped to its opaque part."""
    directory = folder / packages.SPRITES.directory
    path = directory / f"{code}.webp"
    if not path.is_file():
        path = directory / f"{code}-fe0f.webp"
    picture = Image.open(path).convert("RGBA")
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    return picture.crop(box)


def scaled(picture: Image.Image, side: int) -> Image.Image:
    """An RGBA picture whose longer side is `side` pixels."""
    ratio = side / max(picture.size)
    width, height = (max(1, round(length * ratio)) for length in picture.size)
    # Premultiplied while resizing: transparent pixels have arbitrary colours.
    return picture.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")


@lru_cache(maxsize=4096)
def sprite(code: str, side: int) -> _Array:
    """A thing's sprite [h, w, 4] in [0, 1], whose longer side is `side` pixels."""
    return np.asarray(scaled(cutout(code), side), np.float32) / np.float32(255)

"""Admission of images: bytes from outside become a clean image, or a `Problem`.

The order matters. The format is decided by the content and from an explicit list, the size is read
from the header, both before anything is decoded; only then is the image decoded, turned upright,
stripped of metadata (by re-encoding the pixels alone) and hashed. Hashes are always ours.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import struct
import zlib
from dataclasses import dataclass, field

from PIL import Image, ImageOps

from service.gateway.intake.limits import Limits
from service.gateway.problems import Problem

FORMATS = ("PNG", "JPEG", "WEBP")
# What Pillow's three decoders raise for damaged data.
_DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True)
class CleanImage:
    """An admitted image: upright RGB pixels as PNG, and nothing else of the original."""

    data: bytes
    sha256: str
    width: int
    height: int


@dataclass
class PixelBudget:
    """Pixels that a request may still have decoded."""

    limits: Limits
    used: int = field(default=0)

    def take(self, pixels: int, param: str) -> None:
        """Book `pixels`, or refuse the image named by `param`."""
        if pixels > self.limits.image_pixels:
            raise Problem("image_too_large", param=param, limit=self.limits.image_pixels)
        self.used += pixels
        if self.used > self.limits.images_pixels:
            raise Problem("images_too_large", param=param, limit=self.limits.images_pixels)


def decode_base64(text: str, param: str, limits: Limits) -> bytes:
    """The bytes of a base64 string or of a `data:` URL with base64.

    Raises:
        Problem: it is neither, or too long.
    """
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise Problem("invalid_base64", param=param)
    if len(text) * 3 // 4 > limits.image_bytes + 3:
        raise Problem("image_bytes", param=param, limit=limits.image_bytes)
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise Problem("invalid_base64", param=param) from None
    if not data:
        raise Problem("invalid_base64", param=param)
    return data


def clean_image(data: bytes, param: str, budget: PixelBudget) -> CleanImage:
    """Check, decode and re-encode an image.

    Raises:
        Problem: the format is not allowed, the data is damaged or a limit is exceeded.
    """
    limits = budget.limits
    if len(data) > limits.image_bytes:
        raise Problem("image_bytes", param=param, limit=limits.image_bytes)
    try:
        source = Image.open(io.BytesIO(data), formats=FORMATS)
    except _BOMB:
        raise Problem("image_too_large", param=param, limit=limits.image_pixels) from None
    except _DAMAGED:
        code = "image_broken" if _looks_allowed(data) else "image_format"
        raise Problem(code, param=param) from None
    with source:
        budget.take(source.width * source.height, param)
        if min(source.size) < limits.image_side_min:
            raise Problem("image_too_small", param=param, limit=limits.image_side_min)
        try:
            picture = _pixels(source, limits.stored_side)
        except _BOMB:
            raise Problem("image_too_large", param=param, limit=limits.image_pixels) from None
        except _DAMAGED:
            raise Problem("image_broken", param=param) from None
    output = io.BytesIO()
    picture.save(output, "PNG", compress_level=1)
    encoded = output.getvalue()
    return CleanImage(encoded, hashlib.sha256(encoded).hexdigest(), picture.width, picture.height)


def _looks_allowed(data: bytes) -> bool:
    """Whether the first bytes are those of an allowed format."""
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return webp or data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def _pixels(source: Image.Image, stored_side: int) -> Image.Image:
    """Decode the first frame: upright, RGB over white, no larger than we care to store."""
    source.load()
    if source.mode.startswith("I"):
        # 16 bits a pixel: Pillow would clip instead of scaling.
        picture = source.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    elif source.has_transparency_data:
        layer = source.convert("RGBA")
        picture = Image.new("RGB", layer.size, "white")
        picture.paste(layer, mask=layer.getchannel("A"))
    else:
        picture = source.convert("RGB")
    orientation = source.getexif().get(0x0112)
    if isinstance(orientation, int) and 1 < orientation <= 8:
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.info["exif"] = exif.tobytes()
        picture = ImageOps.exif_transpose(picture)
    if max(picture.size) > stored_side:
        picture.thumbnail((stored_side, stored_side), Image.Resampling.LANCZOS)
    return Image.frombytes("RGB", picture.size, picture.tobytes())

"""Bytes from outside become a clean image, or a `Problem`.

The order matters: the content decides the format, from an explicit list, and the header gives the
size, both before anything is decoded. Then the image is decoded, turned upright, stripped of its
metadata (the pixels alone are encoded again) and hashed. No hash is taken from a client.
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

from service.gateway.problems import Problem

FORMATS = ("PNG", "JPEG", "WEBP")
# What Pillow's three decoders raise for damaged data.
_DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageLimits:
    """Bounds of the images of one request; a larger image is stored with `stored_side` pixels."""

    image_bytes: int = 20 * 2**20
    image_pixels: int = 25_000_000
    images_pixels: int = 64_000_000
    image_side_min: int = 4
    stored_side: int = 1536


@dataclass(frozen=True)
class CleanImage:
    """Upright RGB pixels as PNG; nothing else of the original is kept."""

    data: bytes
    sha256: str
    width: int
    height: int


@dataclass
class PixelBudget:
    """Counts the pixels that a request has decoded."""

    limits: ImageLimits
    used: int = field(default=0)

    def take(self, pixels: int, param: str) -> None:
        """Add `pixels`, or refuse the image that the field `param` gives."""
        if pixels > self.limits.image_pixels:
            raise Problem("image_too_large", param=param, limit=self.limits.image_pixels)
        self.used += pixels
        if self.used > self.limits.images_pixels:
            raise Problem("images_too_large", param=param, limit=self.limits.images_pixels)


def decode_base64(text: str, param: str, limits: ImageLimits) -> bytes:
    """The bytes of a base64 string or a `data:` URL with base64.

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
            image = _pixels(source, limits.stored_side)
        except _BOMB:
            raise Problem("image_too_large", param=param, limit=limits.image_pixels) from None
        except _DAMAGED:
            raise Problem("image_broken", param=param) from None
    output = io.BytesIO()
    image.save(output, "PNG", compress_level=1)
    encoded = output.getvalue()
    return CleanImage(encoded, hashlib.sha256(encoded).hexdigest(), image.width, image.height)


def _looks_allowed(data: bytes) -> bool:
    """Whether the first bytes are those of an allowed format."""
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return webp or data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def _pixels(source: Image.Image, stored_side: int) -> Image.Image:
    """The first frame, decoded: upright, RGB over white, scaled down to `stored_side`."""
    source.load()
    if source.mode.startswith("I"):
        # 16 bits a pixel: Pillow would clip instead of scaling.
        image = source.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    elif source.has_transparency_data:
        layer = source.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    else:
        image = source.convert("RGB")
    orientation = source.getexif().get(0x0112)
    if isinstance(orientation, int) and 1 < orientation <= 8:
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.info["exif"] = exif.tobytes()
        image = ImageOps.exif_transpose(image)
    if max(image.size) > stored_side:
        image.thumbnail((stored_side, stored_side), Image.Resampling.LANCZOS)
    return Image.frombytes("RGB", image.size, image.tobytes())

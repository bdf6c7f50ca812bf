"""Encoding, decoding and caching of images."""

from __future__ import annotations

import asyncio
import io
from typing import Literal

from cachetools import LRUCache
from PIL import Image

from model.segments import ImageSegment
from service.broker.blobs import BlobStore

Format = Literal["png", "jpeg", "webp"]
MIME_TYPES: dict[Format, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_FORMATS = ("PNG", "JPEG", "WEBP")
_QUALITY: dict[str, dict[str, int | bool]] = {
    "png": {"compress_level": 3},
    "jpeg": {"quality": 92},
    "webp": {"quality": 92},
}


def encode(image: Image.Image, kind: Format) -> bytes:
    """Encode an image as a file without metadata; equal images give equal bytes."""
    buffer, plain = io.BytesIO(), image.convert("RGB")
    plain.info.clear()
    plain.save(buffer, kind.upper(), **_QUALITY[kind])
    return buffer.getvalue()


def decode(data: bytes) -> Image.Image:
    """Decode a file that the gateway or a worker has written."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return image.convert("RGB")


class ImageCache:
    """Decoded images by hash: later turns of a request read the same images again."""

    def __init__(self, blobs: BlobStore, size: int = 64) -> None:
        self._blobs = blobs
        self._images: LRUCache[str, Image.Image] = LRUCache(size)

    async def segment(self, sha256: str) -> ImageSegment:
        """The image as a segment of a context.

        Raises:
            BlobNotFound: it does not exist or has expired.
        """
        image = self._images.get(sha256)
        if image is None:
            image = await asyncio.to_thread(decode, await self._blobs.get(sha256))
            self._images[sha256] = image
        return ImageSegment(image, sha256)

from __future__ import annotations

import hashlib

import pytest
from PIL import Image

from service.broker.blobs import BlobStore
from service.broker.redis.connection import Broker
from service.errors import BlobNotFound
from service.workers.images import MIME_TYPES, ImageCache, decode, encode


@pytest.mark.parametrize("kind", MIME_TYPES)
def test_equal_images_give_equal_files_without_metadata(kind: str) -> None:
    image = Image.new("RGB", (9, 7), (200, 30, 60))
    image.info["comment"] = "taken at home"
    data = encode(image, kind)
    assert data == encode(image.copy(), kind)
    assert b"home" not in data
    red, green, blue = decode(data).getpixel((4, 3))
    assert abs(red - 200) + abs(green - 30) + abs(blue - 60) < 15


async def test_an_image_is_decoded_once(broker: Broker) -> None:
    blobs = BlobStore(broker)
    data = encode(Image.new("RGB", (4, 4), "red"), "png")
    digest = await blobs.put(data)
    cache = ImageCache(blobs)
    first = await cache.segment(digest)
    await broker.call("FLUSHALL")
    again = await cache.segment(digest)
    assert first.digest == digest == hashlib.sha256(data).hexdigest()
    assert again.image is first.image
    with pytest.raises(BlobNotFound):
        await cache.segment("0" * 64)

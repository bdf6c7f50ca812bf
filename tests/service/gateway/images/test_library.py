"""Images by hash, each for its owners."""

from __future__ import annotations

import base64

import pytest

from service.broker.redis.connection import Broker
from service.errors import BlobNotFound
from service.gateway.images.library import ImageLibrary, mime_of


async def test_an_image_is_its_owners(broker: Broker) -> None:
    library = ImageLibrary(broker)
    sha256 = await library.add("alice", b"bytes")

    assert await library.read("alice", sha256) == b"bytes"
    with pytest.raises(BlobNotFound):
        await library.read("bob", sha256)
    assert await library.reveal("bob", sha256) == base64.b64encode(b"bytes").decode()
    await library.check("bob", sha256)
    with pytest.raises(BlobNotFound):
        await library.check("alice", "0" * 64)


def test_types_by_content() -> None:
    assert mime_of(b"\x89PNG...") == "image/png"
    assert mime_of(b"\xff\xd8\xff...") == "image/jpeg"
    assert mime_of(b"RIFF....WEBP") == "image/webp"
    assert mime_of(b"<script>") is None

"""Images by hash, each for its owners only.

Clients learn of an image only through the gateway, which records the owner when it stores an
uploaded image and when it sends a generated one.
"""

from __future__ import annotations

import base64

from service.broker.blobs import BlobStore
from service.broker.redis.connection import Broker
from service.errors import BlobNotFound

_MIMES = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))


def mime_of(data: bytes) -> str | None:
    """The type of stored image bytes; None for other blobs."""
    return next((mime for head, mime in _MIMES if data.startswith(head)), None)


class ImageLibrary:
    """The images of all owners."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._blobs = BlobStore(broker)

    async def add(self, owner: str, data: bytes) -> str:
        """Store a clean image; returns its hash."""
        sha256 = await self._blobs.put(data)
        await self.grant(owner, sha256)
        return sha256

    async def grant(self, owner: str, sha256: str) -> None:
        """Record that an image belongs to this owner, perhaps among others."""
        key = self._broker.keys.owned(owner, sha256)
        await self._broker.call("SET", key, "1", "EX", self._broker.settings.request_ttl_s)

    async def check(self, owner: str, sha256: str) -> None:
        """Check that an image exists and belongs to this owner.

        Raises:
            BlobNotFound: it does not, or only to other owners.
        """
        owned = await self._broker.call("EXISTS", self._broker.keys.owned(owner, sha256))
        if not owned or not await self._blobs.exists(sha256):
            raise BlobNotFound

    async def read(self, owner: str, sha256: str) -> bytes:
        """The bytes of an owner's image.

        Raises:
            BlobNotFound: see `check`.
        """
        await self.check(owner, sha256)
        return await self._blobs.get(sha256)

    async def reveal(self, owner: str, sha256: str) -> str:
        """An image of this owner's answer, as base64; from now on it belongs to the owner."""
        await self.grant(owner, sha256)
        return base64.b64encode(await self._blobs.get(sha256)).decode()

"""Images by hash, each for its owners only.

The only way to learn of an image is through the gateway, so the gateway notes whose it is: when it
stores an uploaded image, and when it tells an owner of a generated one.
"""

from __future__ import annotations

import base64

from service.broker.blobs import BlobStore
from service.broker.connection import Broker
from service.errors import BlobNotFound

_MIMES = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))


def mime_of(data: bytes) -> str | None:
    """The type of stored image bytes; None for anything else that lies in the blob store."""
    return next((mime for head, mime in _MIMES if data.startswith(head)), None)


class ImageLibrary:
    """The images of all owners."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._blobs = BlobStore(broker)

    async def add(self, owner: str, data: bytes) -> str:
        """Store an admitted image; returns its hash."""
        sha256 = await self._blobs.put(data)
        await self.grant(owner, sha256)
        return sha256

    async def grant(self, owner: str, sha256: str) -> None:
        """Note that an image is (also) of this owner."""
        key = self._broker.keys.owned(owner, sha256)
        await self._broker.call("SET", key, "1", "EX", self._broker.settings.request_ttl_s)

    async def check(self, owner: str, sha256: str) -> None:
        """Make sure that an image is there and of this owner.

        Raises:
            BlobNotFound: it is not; whether somebody else has it is not told.
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
        """The bytes of an image of this owner's answer, as base64; it is the owner's from now."""
        await self.grant(owner, sha256)
        return base64.b64encode(await self._blobs.get(sha256)).decode()

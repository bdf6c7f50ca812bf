"""Bytes by content hash: images and image tokens, with a time to live.

The hash is computed here, never taken from a caller; a blob's partition follows from its hash, so
that equal bytes are kept once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable

from service.broker.connection import Broker
from service.errors import BlobNotFound


class BlobStore:
    """Bytes by content hash."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def put(self, data: bytes, ttl_s: int | None = None) -> str:
        """Store `data`, or renew its time to live; returns its SHA-256."""
        digest = hashlib.sha256(data).hexdigest()
        key = self._broker.keys.blob(digest)
        await self._broker.call("SET", key, data, "EX", ttl_s or self._broker.settings.blob_ttl_s)
        return digest

    async def get(self, sha256: str) -> bytes:
        """The bytes of that hash; reading renews their time to live.

        Raises:
            BlobNotFound: there are none (any more).
        """
        key = self._broker.keys.blob(sha256)
        data = await self._broker.call("GETEX", key, "EX", self._broker.settings.blob_ttl_s)
        if data is None:
            raise BlobNotFound
        return bytes(data)

    async def get_many(self, hashes: Iterable[str]) -> dict[str, bytes]:
        """The bytes of several hashes.

        Raises:
            BlobNotFound: one of them is missing.
        """
        wanted = list(dict.fromkeys(hashes))
        found = await asyncio.gather(*(self.get(sha256) for sha256 in wanted))
        return dict(zip(wanted, found, strict=True))

    async def exists(self, sha256: str) -> bool:
        """Whether the bytes are there; renews their time to live."""
        ttl_s = self._broker.settings.blob_ttl_s
        return bool(await self._broker.call("EXPIRE", self._broker.keys.blob(sha256), ttl_s))

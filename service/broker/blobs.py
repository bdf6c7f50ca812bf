"""Blobs (images and image tokens) in Redis, by the SHA-256 of their bytes, with a time to live.

The hash is always computed here and determines the partition, so equal bytes are stored once.
"""

from __future__ import annotations

import hashlib

from service.broker.redis.connection import Broker
from service.errors import BlobNotFound


class BlobStore:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def put(self, data: bytes, ttl_s: int | None = None) -> str:
        """Store `data`, or renew its time to live; returns its SHA-256 in hex."""
        digest = hashlib.sha256(data).hexdigest()
        key = self._broker.keys.blob(digest)
        await self._broker.call("SET", key, data, "EX", ttl_s or self._broker.settings.blob_ttl_s)
        return digest

    async def get(self, sha256: str) -> bytes:
        """Read a blob and renew its time to live.

        Raises:
            BlobNotFound: it does not exist or has expired.
        """
        key = self._broker.keys.blob(sha256)
        data = await self._broker.call("GETEX", key, "EX", self._broker.settings.blob_ttl_s)
        if data is None:
            raise BlobNotFound
        return bytes(data)

    async def exists(self, sha256: str) -> bool:
        """Whether a blob exists; renews its time to live."""
        ttl_s = self._broker.settings.blob_ttl_s
        return bool(await self._broker.call("EXPIRE", self._broker.keys.blob(sha256), ttl_s))

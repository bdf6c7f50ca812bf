from __future__ import annotations

import hashlib

import pytest

from service.broker.blobs import BlobStore
from service.broker.redis.connection import Broker
from service.errors import BlobNotFound


async def test_bytes_are_found_under_their_hash_and_stored_once(broker: Broker) -> None:
    blobs = BlobStore(broker)
    sha256 = await blobs.put(b"pixels")

    assert sha256 == hashlib.sha256(b"pixels").hexdigest() == await blobs.put(b"pixels")
    assert await blobs.get(sha256) == b"pixels"
    assert await broker.call("DBSIZE") == 1


async def test_every_use_renews_the_time_to_live(broker: Broker) -> None:
    blobs = BlobStore(broker)
    sha256 = await blobs.put(b"pixels", ttl_s=10)
    key = broker.keys.blob(sha256)
    assert 0 < await broker.call("TTL", key) <= 10

    assert await blobs.exists(sha256)
    assert await broker.call("TTL", key) > 10
    await broker.call("EXPIRE", key, 10)
    await blobs.get(sha256)
    assert await broker.call("TTL", key) > 10


async def test_an_unknown_blob(broker: Broker) -> None:
    blobs = BlobStore(broker)

    assert not await blobs.exists("0" * 64)
    with pytest.raises(BlobNotFound):
        await blobs.get("0" * 64)

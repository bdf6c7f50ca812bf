"""Requests that are ended from outside of a turn, as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from service.broker.redis.connection import Broker, translated_errors
from service.broker.redis.urls import connect
from service.errors import BrokerError

_PAUSE_S = 0.5


async def follow_endings(broker: Broker) -> AsyncIterator[str]:
    """Yield the ids of requests that are cancelled, or end by deadline or failure, forever.

    Those that end while the connection is lost are missed: this is a shortcut, and whoever runs
    such a request is refused at its next write or heartbeat.
    """
    client = connect(broker.settings, read_timeout_s=3600)
    try:
        while True:
            try:
                with translated_errors():
                    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                        await pubsub.subscribe(*broker.keys.all_loads())
                        async for message in pubsub.listen():
                            yield message["data"].decode()
            except BrokerError:
                await asyncio.sleep(_PAUSE_S)
    finally:
        await client.aclose()

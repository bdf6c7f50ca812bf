from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from service.broker.redis.connection import Broker
from service.broker.stream import endings
from service.broker.stream.endings import follow_endings
from service.broker.turns.queue import Queue
from service.messages import Request, TextPart


async def subscribed(broker: Broker) -> None:
    while not await broker.client.client_list(_type="pubsub"):
        await asyncio.sleep(0.01)


async def cancel_one(queue: Queue) -> str:
    request = Request(content=(TextPart(text="x"),))
    await queue.enqueue(request)
    await queue.cancel(request.request_id)
    return request.request_id


async def test_cancelled_requests_are_named(broker: Broker, queue: Queue) -> None:
    async with aclosing(follow_endings(broker)) as ended:
        for _ in range(2):
            first = asyncio.ensure_future(anext(ended))
            await subscribed(broker)
            assert await cancel_one(queue) == await asyncio.wait_for(first, 10)


async def test_it_goes_on_after_a_lost_connection(
    broker: Broker, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "_PAUSE_S", 0.01)
    async with aclosing(follow_endings(broker)) as ended:
        first = asyncio.ensure_future(anext(ended))
        await subscribed(broker)
        [lost] = await broker.client.client_list(_type="pubsub")
        await broker.client.client_kill_filter(_id=lost["id"])
        while [client["id"] for client in await broker.client.client_list(_type="pubsub")] in (
            [],
            [lost["id"]],
        ):
            await asyncio.sleep(0.01)
        assert await cancel_one(queue) == await asyncio.wait_for(first, 10)

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from service.broker.connection import Broker
from service.broker.turns.queue import Queue
from service.config import RedisSettings
from service.errors import BrokerError
from service.messages import Request, TextPart


async def test_a_request_is_accepted_only_once_it_is_on_disk(broker: Broker) -> None:
    careful = Broker(broker.settings.model_copy(update={"wait_aof": True}))
    queue = Queue(careful)
    await queue.create_groups()
    # Several connections in the pool: the one that waits is not the one that has written.
    await asyncio.gather(*(careful.call("PING") for _ in range(8)))
    await broker.call("CONFIG", "SET", "appendfsync", "no")
    try:
        request = Request(content=(TextPart(text="x"),))
        admission = asyncio.create_task(queue.enqueue(request))
        while not await broker.call("EXISTS", broker.keys.request(request.request_id)):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert not admission.done()
    finally:
        await broker.call("CONFIG", "SET", "appendfsync", "everysec")
    while not admission.done():
        await broker.call("SET", "anything", 1)
        await asyncio.sleep(0.05)
    assert (await admission).created
    await careful.close()


async def test_without_an_append_only_file_nothing_is_promised(broker: Broker) -> None:
    careful = Broker(broker.settings.model_copy(update={"wait_aof": True}))
    queue = Queue(careful)
    await queue.create_groups()
    await broker.call("CONFIG", "SET", "appendonly", "no")
    try:
        with pytest.raises(BrokerError):
            await queue.enqueue(Request(content=(TextPart(text="x"),)))
    finally:
        await broker.call("CONFIG", "SET", "appendonly", "yes")
    await careful.close()


def test_a_cluster_cannot_be_waited_for() -> None:
    with pytest.raises(ValidationError):
        RedisSettings(redis_url="redis+cluster://127.0.0.1:7000", wait_aof=True)

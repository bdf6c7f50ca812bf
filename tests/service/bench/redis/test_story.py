"""What a story costs Redis is measured on stories that are told to their end."""

from __future__ import annotations

import asyncio

import pytest

from service.bench.redis.story import StoryLoad, StoryShape
from service.broker.redis.connection import Broker
from service.broker.turns.queue import Queue
from service.local.embedded_redis import EmbeddedRedis


async def test_stories_run_through_all_turns_and_leave_nothing_held(
    redis_server: EmbeddedRedis, broker: Broker
) -> None:
    shape = StoryShape(tokens=3, images=1, progress_events=2, image_bytes=100, step_s=0)
    load = StoryLoad(redis_server.url, shape, 2)
    running = asyncio.create_task(load.run(600))
    while load.num_told < 3:
        assert not running.done()
        await asyncio.sleep(0.05)
    keys = [key.decode() for key in await broker.call("KEYS", "*:events:*")]
    kinds = []
    for key in keys:
        events = [fields[b"t"].decode() for _, fields in await broker.call("XRANGE", key, "-", "+")]
        if events[-1] == "response.completed":
            kinds.append(events)
    assert kinds
    for events in kinds:
        assert events.count("text.delta") == 2 * shape.tokens
        assert events.count("image.progress") == shape.progress_events
        assert events.count("image.done") == shape.images
    running.cancel()
    await asyncio.wait([running])
    assert (await Queue(broker).load()).active_requests <= 2


async def test_what_fails_in_a_turn_ends_the_load(
    redis_server: EmbeddedRedis, broker: Broker
) -> None:
    # Bytes of less than no image: the first text turn cannot draw them.
    load = StoryLoad(redis_server.url, StoryShape(tokens=1, image_bytes=-1, step_s=0), 1)
    with pytest.raises(ExceptionGroup) as failed:
        await load.run(60)
    assert failed.group_contains(ValueError)
    assert load.num_told == 0

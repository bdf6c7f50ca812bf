from __future__ import annotations

import pytest

from service.broker.owners import IdempotencyKey, OwnerLimits, Owners
from service.broker.redis.connection import Broker
from service.broker.turns.queue import Queue
from service.errors import IdempotencyConflict, TooManyConcurrent
from service.messages import Request, TextPart


def request(**fields: object) -> Request:
    return Request(content=(TextPart(text="hello"),), **fields)


async def test_an_owner_without_limits_leaves_no_trace(broker: Broker) -> None:
    assert await Owners(broker).acquire(request(), OwnerLimits(), None, 1.0) is None
    assert await broker.call("DBSIZE") == 0


async def test_a_request_takes_a_slot_for_each_answer(broker: Broker) -> None:
    owners, limits = Owners(broker), OwnerLimits(max_concurrent=3)
    asked = request(n=3)
    await owners.acquire(asked, limits, None, 1.0)
    assert await broker.call("ZCARD", broker.keys.running(asked.owner)) == 3

    await owners.release(asked, None)

    assert await broker.call("ZCARD", broker.keys.running(asked.owner)) == 0


async def test_slots_of_requests_that_still_run_are_kept(broker: Broker, queue: Queue) -> None:
    limits = OwnerLimits(max_concurrent=1)
    await queue.enqueue(request(), limits)

    with pytest.raises(TooManyConcurrent) as refused:
        await Owners(broker).acquire(request(), limits, None, 1.0)
    assert refused.value.retry_after_s > 0


async def test_slots_of_requests_that_ended_or_are_gone_are_freed(
    broker: Broker, queue: Queue
) -> None:
    owners, limits = Owners(broker), OwnerLimits(max_concurrent=2)
    ended = request()
    await queue.enqueue(ended)
    await queue.cancel(ended.request_id)
    # Workers that died before they freed the slots.
    running = broker.keys.running(ended.owner)
    expiry_ms = 2**42
    await broker.call("ZADD", running, expiry_ms, ended.request_id, expiry_ms, "req_unknown")

    asked = request()
    assert await owners.acquire(asked, limits, None, 1.0) is None
    assert await broker.call("ZRANGE", running, 0, -1) == [asked.request_id.encode()]


async def test_an_idempotency_key_names_its_request_until_it_is_released(broker: Broker) -> None:
    owners, key = Owners(broker), IdempotencyKey("key", "abc")
    first = request()
    assert await owners.acquire(first, OwnerLimits(), key, 1.0) is None
    assert await owners.acquire(request(), OwnerLimits(), key, 1.0) == first.request_id
    with pytest.raises(IdempotencyConflict):
        await owners.acquire(request(), OwnerLimits(), IdempotencyKey("key", "other"), 1.0)

    await owners.release(first, key)

    assert await owners.acquire(request(), OwnerLimits(), key, 1.0) is None

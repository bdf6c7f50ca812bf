from __future__ import annotations

import asyncio

import pytest

from service.broker.owners import IdempotencyKey, OwnerLimits
from service.broker.redis.connection import Broker
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.errors import (
    IdempotencyConflict,
    Permanent,
    QueueFull,
    RateLimited,
    RequestNotFound,
    StaleAttempt,
    TooManyConcurrent,
)
from service.messages import AnswerLimits, Request, TextPart


def request(text: str = "hello", **fields: object) -> Request:
    return Request(content=(TextPart(text=text),), **fields)


async def test_an_accepted_request_is_queued_and_known(queue: Queue) -> None:
    asked = request()
    admission = await queue.enqueue(asked)
    assert admission.created
    status = await queue.status(asked.request_id)
    assert status.request == asked
    assert status.state == "queued" and not status.terminal
    assert await queue.depth("text") == (1, 0)
    load = await queue.load()
    assert (load.active_requests, load.text_work) == (1, asked.text_work)
    assert load.image_work == asked.image_work


async def test_an_unknown_request_is_not_found(queue: Queue) -> None:
    with pytest.raises(RequestNotFound):
        await queue.status("nobody")
    with pytest.raises(RequestNotFound):
        await queue.cancel("nobody")


async def test_cancel_ends_once_and_frees_everything(queue: Queue, broker: Broker) -> None:
    asked = request()
    await queue.enqueue(asked, OwnerLimits(max_concurrent=1))
    states = await asyncio.gather(*(queue.cancel(asked.request_id) for _ in range(5)))
    assert set(states) == {"cancelled"}
    load = await queue.load()
    assert (load.active_requests, load.text_work, load.image_work) == (0, 0, 0)
    entries = await broker.call("XRANGE", broker.keys.events(asked.request_id), "-", "+")
    kinds = [fields[b"t"] for _, fields in entries]
    assert kinds.count(b"response.cancelled") == 1 and kinds[-1] == b"response.cancelled"
    assert await broker.call("TTL", broker.keys.events(asked.request_id)) > 0
    assert await broker.call("TTL", broker.keys.request(asked.request_id)) > 0
    await queue.enqueue(request(), OwnerLimits(max_concurrent=1))


async def test_too_much_work_is_refused_with_a_time_to_come_back(queue: Queue) -> None:
    for _ in range(3):
        await queue.enqueue(request(limits=AnswerLimits(max_tokens=3_000, max_images=0)))
    with pytest.raises(QueueFull) as full:
        await queue.enqueue(request(limits=AnswerLimits(max_tokens=3_000, max_images=0)))
    assert 1 <= full.value.retry_after_s <= 120
    # Work, not the number of requests, is what counts.
    await queue.enqueue(request(limits=AnswerLimits(max_tokens=10, max_images=0)))


async def test_the_time_to_come_back_follows_the_measured_drain_rate(queue: Queue) -> None:
    asked = [request(limits=AnswerLimits(max_tokens=3_000, max_images=0)) for _ in range(3)]
    for one in asked:
        await queue.enqueue(one)
    await queue.cancel(asked[0].request_id)
    await queue.enqueue(request(limits=AnswerLimits(max_tokens=3_000, max_images=0)))
    rate = (await queue.load()).text_per_s
    assert rate == pytest.approx(3_001 / 60, rel=0.1)
    with pytest.raises(QueueFull) as full:
        await queue.enqueue(request(limits=AnswerLimits(max_tokens=6_000, max_images=0)))
    assert full.value.retry_after_s == pytest.approx((3 * 3_001 + 6_001 - 10_000) / rate, rel=0.1)


async def test_a_request_larger_than_the_bound_is_let_in_alone(queue: Queue) -> None:
    await queue.enqueue(request(limits=AnswerLimits(max_tokens=50_000)))
    with pytest.raises(QueueFull):
        await queue.enqueue(request())


def batch(max_tokens: int) -> Request:
    limits = AnswerLimits(max_tokens=max_tokens, max_images=0)
    return request(limits=limits, priority="batch")


async def test_batch_requests_leave_room_for_interactive_ones(queue: Queue) -> None:
    await queue.enqueue(batch(7_500))
    with pytest.raises(QueueFull):
        await queue.enqueue(batch(1_000))
    await queue.enqueue(request(limits=AnswerLimits(max_tokens=1_000, max_images=0)))


async def test_an_idempotency_key_is_one_request(queue: Queue) -> None:
    idempotency_key = IdempotencyKey("key", "abc")
    answers = await asyncio.gather(
        *(queue.enqueue(request(), idempotency_key=idempotency_key) for _ in range(8))
    )
    assert len({answer.request_id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert await queue.depth("text") == (1, 0)
    with pytest.raises(IdempotencyConflict):
        await queue.enqueue(request(), idempotency_key=IdempotencyKey("key", "other"))
    other = await queue.enqueue(request(owner="else"), idempotency_key=idempotency_key)
    assert other.request_id != answers[0].request_id


async def test_a_gateway_that_died_before_the_record_is_made_up_for(
    queue: Queue, broker: Broker
) -> None:
    first = request()
    idempotency_key = IdempotencyKey("key", "abc")
    await queue._owners.acquire(first, OwnerLimits(), idempotency_key, 1.0)
    admission = await queue.enqueue(request(), idempotency_key=idempotency_key)
    assert admission.request_id == first.request_id
    assert (await queue.status(first.request_id)).state == "queued"


async def test_a_refused_request_does_not_keep_its_idempotency_key(queue: Queue) -> None:
    await queue.enqueue(request(limits=AnswerLimits(max_tokens=9_900)))
    with pytest.raises(QueueFull):
        await queue.enqueue(request(), idempotency_key=IdempotencyKey("key", "abc"))
    again = request(limits=AnswerLimits(max_tokens=10, max_images=0))
    assert (await queue.enqueue(again, idempotency_key=IdempotencyKey("key", "other"))).created


async def test_an_owner_is_held_to_its_rate(queue: Queue) -> None:
    limits = OwnerLimits(requests_per_minute=60, burst=3)
    for _ in range(3):
        await queue.enqueue(request(), limits)
    with pytest.raises(RateLimited) as limited:
        await queue.enqueue(request(), limits)
    assert 0 < limited.value.retry_after_s <= 1
    await queue.enqueue(request(owner="else"), limits)


async def test_an_owner_is_held_to_its_concurrency(queue: Queue, broker: Broker) -> None:
    limits = OwnerLimits(max_concurrent=2)
    first = request()
    await queue.enqueue(first, limits)
    await queue.enqueue(request(), limits)
    with pytest.raises(TooManyConcurrent):
        await queue.enqueue(request(), limits)
    # A worker that died between the end of the request and giving up its slot.
    await broker.call("HSET", broker.keys.request(first.request_id), "state", "completed")
    await queue.enqueue(request(), limits)


async def test_a_deadline_ends_a_request_that_nobody_takes(queue: Queue) -> None:
    asked = request(deadline_ms=30)
    await queue.enqueue(asked)
    await queue.enqueue(request())
    await asyncio.sleep(0.05)
    assert await queue.expire_due() == 1
    status = await queue.status(asked.request_id)
    assert (status.state, status.reason) == ("incomplete", "deadline")
    assert await queue.expire_due() == 0


async def test_an_attempt_that_is_not_current_does_not_end_the_request(
    queue: Queue, broker: Broker
) -> None:
    asked = request()
    await queue.enqueue(asked)
    leases = Leases(broker, "text", "w", 60, 5)
    [delivery] = await leases.claim(0, 1)
    attempt = await leases.begin(delivery)
    with pytest.raises(StaleAttempt):
        await queue.fail(asked.request_id, Permanent(), "1:another")
    assert (await queue.status(asked.request_id)).state == "running"
    assert attempt is not None
    assert await queue.fail(asked.request_id, Permanent(), attempt.fence) == "failed"
    # A request that has ended stays as it is.
    assert await queue.cancel(asked.request_id) == "failed"

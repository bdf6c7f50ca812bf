from __future__ import annotations

import asyncio
import time

import pytest

from service.broker.redis.connection import Broker
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.errors import DeadlineExceeded, Poisoned, StaleAttempt
from service.messages import (
    ImageTask,
    PartStartEvent,
    Request,
    ResponseCompleted,
    TextDeltaEvent,
    TextPart,
    TextTask,
)

START = (PartStartEvent(index=0, kind="text"), "")


def delta(text: str, ids: str = "1") -> tuple[TextDeltaEvent, str]:
    return TextDeltaEvent(index=0, text=text), ids


def worker(broker: Broker, name: str, lease_s: float = 0.05, most: int = 5) -> Leases:
    return Leases(broker, "text", name, lease_s, most)


async def enqueue(queue: Queue, **fields: object) -> Request:
    request = Request(content=(TextPart(text="x"),), **fields)
    await queue.enqueue(request)
    return request


async def kinds(broker: Broker, request: Request) -> list[str]:
    entries = await broker.call("XRANGE", broker.keys.events(request.request_id), "-", "+")
    assert [int(fields[b"n"]) for _, fields in entries] == list(range(len(entries)))
    return [fields[b"t"].decode() for _, fields in entries]


async def test_a_worker_that_wakes_up_late_is_refused(broker: Broker, queue: Queue) -> None:
    request = await enqueue(queue)
    slow, quick = worker(broker, "slow"), worker(broker, "quick")
    [delivery] = await slow.claim(0, 1)
    late = await slow.begin(delivery)
    await slow.append(late, [START, delta("a")], open=0)
    await asyncio.sleep(0.1)
    [taken] = await quick.reclaim(5)
    assert taken.entry_id == delivery.entry_id
    attempt = await quick.begin(taken)
    assert attempt.open_part == 0 and attempt.deliveries == 2
    with pytest.raises(StaleAttempt):
        await slow.append(late, [delta("b")])
    with pytest.raises(StaleAttempt):
        await slow.commit(late, [(ResponseCompleted(), "")], state="completed", fields={})
    await quick.append(attempt, [delta("c")])
    await quick.commit(attempt, [(ResponseCompleted(), "")], state="completed", fields={})
    assert (await kinds(broker, request))[2:] == [
        "part.start",
        "text.delta",
        "text.delta",
        "response.completed",
    ]
    assert await queue.depth("text") == (0, 0)


async def test_a_commit_moves_the_request_on_in_one_step(broker: Broker, queue: Queue) -> None:
    request = await enqueue(queue)
    leases = worker(broker, "w")
    [delivery] = await leases.claim(0, 1)
    attempt = await leases.begin(delivery)
    task = ImageTask(request_id=request.request_id, turn=1, index=0, image_tokens="0" * 64, seed=3)
    await leases.commit(attempt, [START], next_task=task, text_work=100, fields={"usage": "{}"})
    # Saying it again, as after a lost reply, changes nothing.
    attempt.log.clear()
    await leases.commit(attempt, [START], next_task=task, text_work=100, fields={"usage": "{}"})
    assert (await queue.depth("text"), await queue.depth("image")) == ((0, 0), (1, 0))
    status = await queue.status(request.request_id)
    assert (status.turn, status.state) == (1, "queued")
    assert (await queue.load()).text_work == request.text_work - 100
    images = Leases(broker, "image", "w", 1, 5)
    [drawn] = await images.claim(0, 1)
    assert drawn.task() == task
    assert (await kinds(broker, request))[2:] == ["part.start"]


async def test_a_task_of_a_turn_that_is_over_is_dropped(broker: Broker, queue: Queue) -> None:
    request = await enqueue(queue)
    await queue.cancel(request.request_id)
    leases = worker(broker, "w")
    [delivery] = await leases.claim(0, 1)
    assert await leases.begin(delivery) is None
    assert await queue.depth("text") == (0, 0)


async def test_too_late_and_too_often(broker: Broker, queue: Queue) -> None:
    await enqueue(queue, deadline_ms=1)
    leases = worker(broker, "w", most=1)
    [delivery] = await leases.claim(0, 1)
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlineExceeded):
        await leases.begin(delivery)
    await enqueue(queue)
    [delivery] = await leases.claim(0, 1)
    await asyncio.sleep(0.1)
    [delivery] = [d for d in await leases.reclaim(5) if d == delivery]
    with pytest.raises(Poisoned):
        await leases.begin(delivery)


async def test_what_is_handed_back_is_taken_at_once_and_not_counted(
    broker: Broker, queue: Queue
) -> None:
    await enqueue(queue)
    first, second = worker(broker, "first", lease_s=60), worker(broker, "second", lease_s=60)
    [delivery] = await first.claim(0, 1)
    attempt = await first.begin(delivery)
    assert await second.reclaim(5) == []
    await first.nack(delivery, attempt.fence, untried=True)
    [taken] = await second.reclaim(5)
    assert (await second.begin(taken)).deliveries == 1
    await second.nack(taken, pause_s=0.2)
    assert await first.reclaim(5) == []
    await asyncio.sleep(0.25)
    [again] = await first.reclaim(5)
    assert (await first.begin(again)).deliveries == 2


async def test_a_bounded_number_of_times_a_turn_is_handed_back_uncounted(
    broker: Broker, queue: Queue
) -> None:
    request = await enqueue(queue)
    leases = worker(broker, "w", lease_s=60)
    [delivery] = await leases.claim(0, 1)
    counts = []
    for _ in range(4):
        attempt = await leases.begin(delivery)
        counts.append(attempt.deliveries)
        await leases.nack(delivery, attempt.fence, untried=True, most_untried=2)
        [delivery] = await leases.reclaim(1)
    assert counts == [1, 1, 1, 2]
    attempt = await leases.begin(delivery)
    await leases.commit(
        attempt, [], next_task=TextTask(request_id=request.request_id, turn=1), fields={}
    )
    assert await broker.call("HGET", broker.keys.request(request.request_id), "uncounted") is None


async def test_events_that_redis_lost_are_said_again(broker: Broker, queue: Queue) -> None:
    request = await enqueue(queue)
    leases = worker(broker, "w")
    [delivery] = await leases.claim(0, 1)
    attempt = await leases.begin(delivery)
    await leases.append(attempt, [START, delta("a", "1")])
    events = broker.keys.events(request.request_id)
    before = await broker.call("XRANGE", events, "-", "+")
    await leases.append(attempt, [delta("b", "2")])
    # As after a crash between two writes of the append-only file.
    for entry_id, _ in (await broker.call("XRANGE", events, "-", "+"))[len(before) - 1 :]:
        await broker.call("XDEL", events, entry_id)
    await broker.call("HSET", broker.keys.request(request.request_id), "seq", 3)
    await leases.append(attempt, [delta("c", "3")])
    entries = await broker.call("XRANGE", events, "-", "+")
    assert [fields.get(b"k") for _, fields in entries][3:] == [b"1", b"2", b"3"]
    await kinds(broker, request)


async def test_trimming_keeps_what_is_pending_or_undelivered(broker: Broker, queue: Queue) -> None:
    leases = worker(broker, "w")
    requests = [await enqueue(queue) for _ in range(6)]
    taken = await leases.claim(0, 4)
    for number in (0, 1, 3):
        await leases.ack(taken[number])
    assert await leases.trim() == 2
    stream = broker.keys.tasks("text", "interactive", 0)
    left = [fields[b"task"] for _, fields in await broker.call("XRANGE", stream, "-", "+")]
    assert [TextTask.decode(task).request_id for task in left] == [
        request.request_id for request in requests[2:]
    ]
    assert await queue.depth("text") == (2, 1)


async def test_taking_waits_without_holding_others_up(broker: Broker, queue: Queue) -> None:
    leases = worker(broker, "w")
    started = time.monotonic()
    waiting = asyncio.create_task(leases.claim(0, 3, block_ms=5000))
    await asyncio.sleep(0.05)
    await enqueue(queue)
    assert len(await waiting) == 1 and time.monotonic() - started < 5

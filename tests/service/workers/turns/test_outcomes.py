from __future__ import annotations

import asyncio
import json
import time

from service.broker.redis.connection import Broker
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.errors import CommandRefused, ConnectionLost, Permanent
from service.messages import Request, TextPart
from service.workers.turns.outcomes import Outcomes
from tests.faults.engines import expected_answer
from tests.service.workers.conftest import Stage


async def test_cancel_stops_a_running_turn_and_a_queued_one(stage: Stage) -> None:
    worker = await stage.start("text", token_s=0.01)
    request = await stage.submit("endless")
    queued = await stage.submit("waits for an image worker")
    while stage.engines[0].running < 2 and not (await stage.queue.depth("image"))[0]:
        await asyncio.sleep(0.01)
    await stage.queue.cancel(request.request_id)
    await stage.queue.cancel(queued.request_id)
    started = time.monotonic()
    while stage.engines[0].running:
        await asyncio.sleep(0.001)
    assert time.monotonic() - started < 5
    assert (await stage.events(request))[-1].type == "response.cancelled"
    assert (await stage.events(queued))[-1].type == "response.cancelled"
    await stage.start("image")
    while await stage.queue.depth("image") != (0, 0) or await stage.queue.depth("text") != (0, 0):
        await asyncio.sleep(0.01)
    assert not worker._active


async def test_a_deadline_stops_a_running_turn(stage: Stage) -> None:
    await stage.start("text", token_s=0.01, maintenance_s=60)
    request = await stage.submit("endless", deadline_ms=300)
    events = await stage.events(request)
    assert events[-1].data == {"reason": "deadline"}
    while stage.engines[0].running or await stage.queue.depth("text") != (0, 0):
        await asyncio.sleep(0.01)
    usage = next(event.data for event in events if event.type == "usage")
    assert usage["output_tokens"] > 0


async def test_poison_becomes_a_dead_letter_and_an_error(stage: Stage) -> None:
    await stage.start("text", max_deliveries=2)
    request = await stage.submit("poison")
    events = await stage.events(request)
    assert [event.type for event in events[-3:]] == ["usage", "error", "response.failed"]
    assert events[-1].data["error"]["code"] == "too_many_attempts"
    assert "breaks" not in json.dumps([event.data for event in events])
    while await stage.queue.depth("text") != (0, 0):
        await asyncio.sleep(0.01)
    dead = await stage.broker.call("XRANGE", stage.broker.keys.dead_letters(0), "-", "+")
    assert len(dead) == 1 and request.request_id.encode() in dead[0][1][b"task"]
    deltas = [event for event in events if event.type == "text.delta"]
    streamed = "".join(event.data["text"] for event in deltas)
    assert streamed and expected_answer("poison", 0)[0].startswith(streamed)


async def test_a_task_that_cannot_be_read_becomes_a_dead_letter(stage: Stage) -> None:
    keys = stage.broker.keys
    await stage.broker.call("XADD", keys.tasks("text", "interactive", 0), "*", "task", "{nonsense")
    await stage.broker.call("XADD", keys.tasks("text", "interactive", 0), "*", "other", "x")
    await stage.start("text")
    while await stage.queue.depth("text") != (0, 0):
        await asyncio.sleep(0.01)
    assert await stage.broker.call("XLEN", keys.dead_letters(0)) == 2


async def test_a_context_that_does_not_fit_is_the_clients_error(stage: Stage) -> None:
    await stage.start("text")
    events = await stage.events(await stage.submit("too long"))
    assert events[-1].data["error"]["code"] == "context_length_exceeded"


async def test_out_of_memory_is_tried_again(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image")
    request = await stage.submit("memory")
    await stage.check(request, await stage.events(request))


async def test_an_error_of_a_stale_attempt_leaves_the_task_to_its_holder(
    broker: Broker, queue: Queue
) -> None:
    slow, quick = (Leases(broker, "text", name, 0.05, 5) for name in ("slow", "quick"))
    request = Request(content=(TextPart(text="x"),))
    await queue.enqueue(request)
    [delivery] = await slow.claim(0, 1)
    late = await slow.begin(delivery)
    await asyncio.sleep(0.1)
    [reclaimed] = await quick.reclaim(1)
    assert await quick.begin(reclaimed) is not None

    assert await Outcomes(queue, slow).after_error(delivery, late, Permanent()) == "stale"

    assert (await queue.status(request.request_id)).state == "running"
    assert await queue.depth("text") == (0, 1)


async def test_a_command_that_redis_refuses_is_retried_as_any_other_error(
    broker: Broker, queue: Queue
) -> None:
    leases = Leases(broker, "text", "w", 60, 5)
    await queue.enqueue(Request(content=(TextPart(text="x"),)))
    [delivery] = await leases.claim(0, 1)
    attempt = await leases.begin(delivery)
    outcomes = Outcomes(queue, leases)
    assert await outcomes.after_error(delivery, attempt, CommandRefused()) == "retried"
    assert await outcomes.after_error(delivery, attempt, ConnectionLost()) == "broker_lost"

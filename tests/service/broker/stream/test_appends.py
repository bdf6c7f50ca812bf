from __future__ import annotations

import asyncio

import pytest

from service.broker.redis.connection import Broker
from service.broker.stream.appends import Appends
from service.broker.turns.attempt import Attempt
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.errors import ConnectionLost, Retryable, StaleAttempt
from service.messages import Request, TextDeltaEvent, TextPart


async def begin(queue: Queue, leases: Leases, count: int) -> list[Attempt]:
    for _ in range(count):
        request = Request(content=(TextPart(text="x"),), output_modalities=("text",))
        await queue.enqueue(request)
    attempts = [await leases.begin(delivery) for delivery in await leases.claim(0, count)]
    return [attempt for attempt in attempts if attempt is not None]


def delta(number: int) -> tuple[TextDeltaEvent, str]:
    return TextDeltaEvent(index=0, text=f"{number} "), str(number)


async def texts(broker: Broker, attempt: Attempt) -> str:
    entries = await broker.call("XRANGE", broker.keys.events(attempt.request_id), "-", "+")
    return b"".join(fields[b"d"] for _, fields in entries if fields[b"t"] == b"text.delta").decode()


async def num_calls(broker: Broker) -> int:
    info = await broker.client.info("commandstats")
    return sum(info.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


async def test_turns_of_one_step_share_a_command(broker: Broker, queue: Queue) -> None:
    leases = Leases(broker, "text", "w", 60, 5)
    attempts = await begin(queue, leases, 20)
    await leases.append(attempts[0], [delta(0)])  # the script is loaded from here on
    before = await num_calls(broker)
    for step in range(1, 6):
        await asyncio.gather(*(leases.append(attempt, [delta(step)]) for attempt in attempts))
    assert await num_calls(broker) - before == 5
    for attempt in attempts[1:]:
        said = await texts(broker, attempt)
        assert [said.count(f'"{step} "') for step in range(1, 6)] == [1] * 5


async def test_what_comes_meanwhile_goes_with_the_next_command(
    broker: Broker, queue: Queue
) -> None:
    leases = Leases(broker, "text", "w", 60, 5)
    attempts = await begin(queue, leases, 30)
    await leases.append(attempts[0], [delta(0)])
    before = await num_calls(broker)

    async def late(number: int, attempt: Attempt) -> None:
        for _ in range(number % 3):
            await asyncio.sleep(0)
        await leases.append(attempt, [delta(number)])

    await asyncio.gather(*(late(number, attempt) for number, attempt in enumerate(attempts)))
    assert await num_calls(broker) - before <= 3


async def test_one_turn_that_is_stale_or_broken_costs_no_other(
    broker: Broker, queue: Queue
) -> None:
    leases = Leases(broker, "text", "w", 60, 5)
    stale, broken, good = await begin(queue, leases, 3)
    await queue.cancel(stale.request_id)
    await broker.call("SET", broker.keys.events(broken.request_id), "not a stream")
    results = await asyncio.gather(
        *(leases.append(attempt, [delta(1)]) for attempt in (stale, broken, good)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [StaleAttempt, Retryable, type(None)]
    assert "1 " in await texts(broker, good)


async def test_a_turn_that_stops_waiting_holds_up_nobody(broker: Broker, queue: Queue) -> None:
    leases = Leases(broker, "text", "w", 60, 5)
    left, other = await begin(queue, leases, 2)
    leaving = asyncio.create_task(leases.append(left, [delta(1)]))
    staying = asyncio.create_task(leases.append(other, [delta(1)]))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert leaving.cancelled() or leaving.done()
    await leases.append(other, [delta(2)])
    assert (await texts(broker, other)).count("text") == 2


async def test_a_redis_that_stays_away_is_told_to_everybody(broker: Broker) -> None:
    settings = broker.settings.model_copy(
        update={
            "redis_url": type(broker.settings.redis_url)("redis://127.0.0.1:1"),
            "redis_retry_s": 0,
        }
    )
    away = Broker(settings)
    appends = Appends(away)
    results = await asyncio.gather(
        *(appends.send(0, ("a", "b"), ("f", 0, 0, 0)) for _ in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [ConnectionLost] * 3
    with pytest.raises(ConnectionLost):
        await appends.send(0, ("a", "b"), ("f", 0, 0, 0))
    await away.close()

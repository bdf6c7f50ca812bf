"""Several answers to one request: durable choices that share one stream."""

from __future__ import annotations

import asyncio

import pytest

from model.sampling_params import SamplingParams
from service.broker.owners import IdempotencyKey, OwnerLimits
from service.broker.redis.connection import Broker
from service.broker.stream.events import read_events
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.errors import Permanent, QueueFull, RateLimited, TooManyConcurrent
from service.messages import (
    AnswerLimits,
    PartStartEvent,
    Request,
    RequestImageParams,
    ResponseCompleted,
    ResponseIncomplete,
    StoredEvent,
    TextDeltaEvent,
    TextPart,
    Usage,
    UsageEvent,
)
from tests.faults.engines import expected_answer
from tests.service.workers.conftest import Stage, stage  # noqa: F401


def request(n: int, **fields: object) -> Request:
    return Request(content=(TextPart(text="hello"),), n=n, **fields)


def of_choice(events: list[StoredEvent], choice: int) -> list[StoredEvent]:
    return [event for event in events if event.data.get("choice") == choice]


def test_choices_have_seeds_of_their_own_and_the_first_has_the_requests() -> None:
    asked = request(3, sampling=SamplingParams(seed=5), image=RequestImageParams(seed=2**32 - 1))
    choices = asked.choices

    assert [one.request_id for one in choices] == [f"{asked.request_id}.{k}" for k in range(3)]
    assert choices[0].sampling.seed == 5 and choices[0].image.seed == 2**32 - 1
    assert len({one.sampling.seed for one in choices}) == 3
    assert len({one.image.seed for one in choices}) == 3
    assert all(one.image.seed < 2**32 and one.n == 1 for one in choices)
    assert {one.sampling.seed for one in request(3).choices} == {None}
    assert request(1).choices == ()


async def test_a_request_counts_as_many_as_it_has_choices(queue: Queue) -> None:
    limits = OwnerLimits(max_concurrent=4)
    asked = request(3)
    await queue.enqueue(asked, limits)

    assert await queue.depth("text") == (3, 0)
    load = await queue.load()
    assert load.active_requests == 3
    assert (load.text_work, load.image_work) == (3 * asked.text_work, 3 * asked.image_work)
    with pytest.raises(TooManyConcurrent):
        await queue.enqueue(request(2), limits)
    await queue.enqueue(request(1), limits)
    await queue.cancel(asked.request_id)
    await queue.enqueue(request(3), limits)


async def test_a_choice_costs_as_much_of_the_rate_as_a_request(queue: Queue) -> None:
    limits = OwnerLimits(requests_per_minute=6, burst=4)
    await queue.enqueue(request(3), limits)
    with pytest.raises(RateLimited):
        await queue.enqueue(request(2), limits)
    await queue.enqueue(request(1), limits)


async def test_all_choices_are_accepted_or_none(queue: Queue, broker: Broker) -> None:
    await queue.enqueue(request(1))
    large, limits = AnswerLimits(max_tokens=4_000, max_images=0), OwnerLimits(max_concurrent=4)
    refused = request(3, limits=large)
    with pytest.raises(QueueFull):
        await queue.enqueue(refused, limits, IdempotencyKey("key", "body"))

    assert await queue.depth("text") == (1, 0)
    assert (await queue.load()).active_requests == 1
    # Nothing of it is left: neither its slots nor its idempotency key.
    again = await queue.enqueue(request(3), limits, IdempotencyKey("key", "other"))
    assert again.created and again.request_id != refused.request_id


async def test_the_same_key_is_the_same_request_with_all_its_choices(queue: Queue) -> None:
    asked, once = request(2), IdempotencyKey("key", "body")
    first = await queue.enqueue(asked, idempotency_key=once)
    again = await queue.enqueue(request(2), idempotency_key=once)

    assert first.created and not again.created
    assert again.request_id == first.request_id == asked.request_id
    assert await queue.depth("text") == (2, 0)


async def test_the_last_choice_ends_the_request(queue: Queue, broker: Broker) -> None:
    asked = request(2)
    await queue.enqueue(asked)
    leases = Leases(broker, "text", "w", 15, 3)
    first, second = [await leases.begin(d) for d in await leases.claim(0, 5)]
    assert first is not None and second is not None
    usage = Usage(prompt_tokens=5, output_tokens=2)
    bill = (UsageEvent(**usage.model_dump()), "")

    assert (await queue.status(asked.request_id)).state == "running"
    begun = (PartStartEvent(index=0, kind="text"), "")
    await leases.append(first, [begun, (TextDeltaEvent(index=0, text="a"), "7")], open=0)
    await leases.append(second, [begun, (TextDeltaEvent(index=0, text="b"), "8")], open=0)
    done, ended = {"usage": usage.encode()}, [bill, (ResponseIncomplete(reason="max_tokens"), "")]
    await leases.commit(second, ended, state="incomplete", fields=done | {"reason": "max_tokens"})
    half = await queue.status(asked.request_id)
    assert (half.state, [one.state for one in half.choices]) == (
        "running",
        ["running", "incomplete"],
    )
    completed = [bill, (ResponseCompleted(), "")]
    await leases.commit(first, completed, state="completed", fields=done)
    # Saying it again, as after a lost reply, changes nothing.
    await leases.commit(first, completed, state="completed", fields=done)

    status = await queue.status(asked.request_id)
    assert (status.state, status.reason) == ("incomplete", "max_tokens")
    assert [one.state for one in status.choices] == ["completed", "incomplete"]
    assert status.usage == Usage(prompt_tokens=10, output_tokens=4)
    assert await broker.call("TTL", broker.keys.request(asked.request_id)) > 0
    assert (await queue.load()).active_requests == 0
    entries = await broker.call("XRANGE", broker.keys.events(asked.request_id), "-", "+")
    assert [int(fields[b"n"]) for _, fields in entries] == list(range(len(entries)))
    kinds = [fields[b"t"].decode() for _, fields in entries]
    assert kinds[-4:] == ["usage", "choice.completed", "usage", "response.incomplete"]
    assert sum(kind.startswith("response.") for kind in kinds) == 3


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (("failed", "failed"), "failed"),
        (("completed", "failed"), "incomplete"),
        (("completed", "completed"), "completed"),
        (("failed", "cancelled"), "cancelled"),
    ],
)
async def test_how_choices_make_the_state(
    queue: Queue, states: tuple[str, ...], whole: str
) -> None:
    asked = request(2)
    await queue.enqueue(asked)
    for number, state in enumerate(states):
        one = f"{asked.request_id}.{number}"
        if state == "failed":
            await queue.fail(one, Permanent())
        elif state == "cancelled":
            await queue.cancel(one)
        else:
            await queue.end(one, "completed", ResponseCompleted())

    status = await queue.status(asked.request_id)
    assert status.state == whole
    assert (status.error is not None) == (whole == "failed")
    assert status.reason == ("choice_failed" if whole == "incomplete" else None)


async def test_the_error_of_a_failed_group_is_what_clients_of_one_answer_see(
    queue: Queue, broker: Broker
) -> None:
    asked = request(2)
    await queue.enqueue(asked)
    for choice in asked.choices:
        await queue.fail(choice.request_id, Permanent())

    events = await read_events(broker, asked.request_id)

    [error] = [event for event in events if event.type == "error" and "choice" not in event.data]
    expected = {"type", "code", "message", "retryable"}
    assert set(error.data["error"]) == set(events[-1].data["error"]) == expected
    assert events[-1].type == "response.failed"


async def test_the_content_is_stored_once(queue: Queue, broker: Broker) -> None:
    text = "a lake at noon " * 100
    asked = Request(content=(TextPart(text=text),), n=4)
    await queue.enqueue(asked)

    stored = 0
    for key in await broker.call("KEYS", "*"):
        kind = await broker.call("TYPE", key)
        if kind == b"hash":
            stored += b"".join(await broker.call("HVALS", key)).count(text.encode())
        elif kind == b"stream":
            stored += str(await broker.call("XRANGE", key, "-", "+")).count(text)
    assert stored == 1

    leases = Leases(broker, "text", "w", 15, 3)
    begun = [await leases.begin(delivery) for delivery in await leases.claim(0, 4)]
    assert [attempt.request for attempt in begun if attempt] == list(asked.choices)
    status = await queue.status(asked.request_id)
    assert status.request == asked
    assert tuple(choice.request for choice in status.choices) == asked.choices
    assert (await queue.status(asked.choices[2].request_id)).request == asked.choices[2]


async def test_the_deadline_ends_all_choices(queue: Queue, broker: Broker) -> None:
    asked = request(2, deadline_ms=1)
    await queue.enqueue(asked)
    while not await queue.expire_due():
        pass
    await queue.expire_due()

    status = await queue.status(asked.request_id)
    assert (status.state, status.reason) == ("incomplete", "deadline")
    assert {one.reason for one in status.choices} == {"deadline"}


async def test_workers_answer_all_choices_in_one_stream(stage: Stage) -> None:  # noqa: F811
    for kind in ("text", "image"):
        await stage.start(kind)
    asked = await stage.submit("a boat", seed=3, n=3)

    events = await stage.events(asked)

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events if event.terminal] == ["response.completed"]
    for number, choice in enumerate(asked.choices):
        own = of_choice(events, number)
        assert await stage.answer(own) == expected_answer("a boat", choice.image.seed)
        assert own[-1].type == "choice.completed"
    status = await stage.queue.status(asked.request_id)
    report = next(e for e in reversed(events) if e.type == "usage")
    assert Usage(**report.data) == status.usage
    assert status.usage.images == 6
    # They were made side by side, not one after the other.
    order = [event.data["choice"] for event in events if "choice" in event.data]
    assert order != sorted(order)
    for cut in (events[3].id, events[len(events) // 2].id, events[-2].id):
        number = next(i for i, event in enumerate(events) if event.id == cut)
        rest = [event.encode() for event in await stage.events(asked, after=cut)]
        assert rest == [event.encode() for event in events[number + 1 :]]


async def test_a_choice_goes_on_where_another_worker_stopped(stage: Stage) -> None:  # noqa: F811
    await stage.start("image")
    first = await stage.start("text", token_s=0.02, drain_s=0)
    asked = await stage.submit("a lake", n=2)
    seen = 0
    async for event in stage.hub.follow(asked.request_id):
        seen += event is not None and event.type == "text.delta"
        if seen >= 6:
            break
    first.drain()
    await stage.tasks[first]
    await stage.start("text")

    events = await stage.events(asked)

    assert [event.sequence_number for event in events] == list(range(len(events)))
    for number, choice in enumerate(asked.choices):
        answer = await stage.answer(of_choice(events, number))
        assert answer == expected_answer("a lake", choice.image.seed)


async def test_cancel_stops_all_choices(stage: Stage) -> None:  # noqa: F811
    await stage.start("text")
    asked = await stage.submit("endless", n=2)
    async for event in stage.hub.follow(asked.request_id):
        if event is not None and event.type == "text.delta":
            break

    assert await stage.queue.cancel(asked.request_id) == "cancelled"

    events = await stage.events(asked)
    assert events[-1].type == "response.cancelled"
    assert [e.type for e in events].count("choice.cancelled") == 2
    engine = stage.engines[0]
    while engine.running:
        await asyncio.sleep(0.01)

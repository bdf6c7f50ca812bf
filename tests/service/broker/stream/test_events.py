from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from service.broker.redis.connection import Broker
from service.broker.stream.events import EventHub, read_events
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.errors import CursorExpired, EventsReplaced, InvalidCursor, RequestNotFound
from service.messages import PartStartEvent, Request, ResponseCompleted, TextDeltaEvent, TextPart


@pytest.fixture
async def hub(broker: Broker) -> AsyncIterator[EventHub]:
    hub = EventHub(broker, max_buffered=20)
    await hub.start()
    yield hub
    await hub.stop()


class Writer:
    """A request whose events this test writes."""

    def __init__(self, broker: Broker, queue: Queue) -> None:
        self.leases = Leases(broker, "text", "writer", 60, 5)
        self.queue = queue
        self.request = Request(content=(TextPart(text="x"),))
        self.count = 0

    async def begin(self) -> None:
        await self.queue.enqueue(self.request)
        [delivery] = await self.leases.claim(0, 1)
        self.attempt = await self.leases.begin(delivery)
        await self.leases.append(self.attempt, [(PartStartEvent(index=0, kind="text"), "")])

    async def write(self, number: int) -> None:
        for _ in range(number):
            event = TextDeltaEvent(index=0, text=f"{self.count} ")
            self.count += 1
            await self.leases.append(self.attempt, [(event, str(self.count))])

    async def end(self) -> None:
        done = [(ResponseCompleted(), "")]
        await self.leases.commit(self.attempt, done, state="completed", fields={})


@pytest.fixture
async def writer(broker: Broker, queue: Queue) -> Writer:
    writer = Writer(broker, queue)
    await writer.begin()
    return writer


async def collect(
    hub: EventHub, writer: Writer, after: str | None = None, pause_s: float = 0.0
) -> list[int]:
    numbers: list[int] = []
    async with aclosing(hub.follow(writer.request.request_id, after)) as events:
        async for event in events:
            if event is not None:
                numbers.append(event.sequence_number)
                await asyncio.sleep(pause_s)
    return numbers


async def test_many_readers_share_one_connection(
    hub: EventHub, writer: Writer, broker: Broker
) -> None:
    readers = [asyncio.create_task(collect(hub, writer)) for _ in range(50)]
    while hub.num_followers < 50:
        await asyncio.sleep(0.01)
    assert len(await broker.client.client_list(_type="pubsub")) == 1
    await writer.write(30)
    await writer.end()
    for numbers in await asyncio.gather(*readers):
        assert numbers == list(range(34))
    assert hub.num_followers == 0


async def test_a_slow_reader_is_bounded_and_holds_nobody_up(hub: EventHub, writer: Writer) -> None:
    slow = asyncio.create_task(collect(hub, writer, pause_s=0.005))
    quick = asyncio.create_task(collect(hub, writer))
    await asyncio.sleep(0.05)
    await writer.write(300)
    await writer.end()
    assert await asyncio.wait_for(quick, 5) == list(range(304))
    assert not slow.done()
    followers = [f for group in hub._followers.values() for f in group]
    assert all(len(follower.buffer) <= 20 for follower in followers)
    assert await slow == list(range(304))


async def test_a_cut_connection_loses_nothing(
    hub: EventHub, writer: Writer, broker: Broker
) -> None:
    reader = asyncio.create_task(collect(hub, writer))
    for _ in range(5):
        await writer.write(10)
        for client in await broker.client.client_list(_type="pubsub"):
            await broker.client.client_kill_filter(_id=client["id"])
        await writer.write(10)
        await asyncio.sleep(0.12)
    await writer.end()
    assert await asyncio.wait_for(reader, 20) == list(range(104))


async def lose(broker: Broker, writer: Writer, number: int) -> list[str]:
    """Delete the last events, as a crash of Redis does; returns their ids."""
    request_id = writer.request.request_id
    lost = [event.id for event in await read_events(broker, request_id)][-number:]
    await broker.call("XDEL", broker.keys.events(request_id), *lost)
    await broker.call("HINCRBY", broker.keys.request(request_id), "seq", -number)
    return lost


async def test_lost_events_that_are_appended_again_change_nothing(
    hub: EventHub, writer: Writer, broker: Broker
) -> None:
    reader = asyncio.create_task(collect(hub, writer))
    await writer.write(5)
    await asyncio.sleep(0.05)
    lost = await lose(broker, writer, 3)
    await writer.write(5)
    await writer.end()

    assert await asyncio.wait_for(reader, 20) == list(range(14))
    assert await collect(hub, writer) == list(range(14))
    # A stream that would repeat what its reader has is refused.
    with pytest.raises(CursorExpired):
        await collect(hub, writer, after=lost[-1])


async def test_other_events_in_place_of_lost_ones_end_the_stream(
    hub: EventHub, writer: Writer, broker: Broker
) -> None:
    reader = asyncio.create_task(collect(hub, writer))
    await writer.write(5)
    await asyncio.sleep(0.05)
    await lose(broker, writer, 3)
    # Another attempt writes the same text, divided otherwise.
    writer.attempt = replace(writer.attempt, first_number=5, log=[])
    event = TextDeltaEvent(index=0, text="2 3 4 5 ")
    await writer.leases.append(writer.attempt, [(event, "2,3,4,5")])

    with pytest.raises(EventsReplaced):
        await asyncio.wait_for(reader, 20)


async def test_silence_is_filled_with_pings(hub: EventHub, writer: Writer) -> None:
    async with aclosing(hub.follow(writer.request.request_id, ping_s=0.05)) as events:
        seen = [await anext(events) for _ in range(6)]
    assert [event.type for event in seen if event][-1] == "part.start"
    assert seen[-1] is None


async def test_resume_at_any_event_even_after_the_end(
    hub: EventHub, writer: Writer, broker: Broker
) -> None:
    await writer.write(5)
    await writer.end()
    events = await read_events(broker, writer.request.request_id)
    for number, event in enumerate(events[:-1]):
        assert await collect(hub, writer, after=event.id) == list(range(number + 1, len(events)))


async def test_cursors_that_cannot_be_served_are_explicit_errors(
    hub: EventHub, writer: Writer, broker: Broker
) -> None:
    with pytest.raises(InvalidCursor):
        await collect(hub, writer, after="yesterday")
    with pytest.raises(CursorExpired):
        await collect(hub, writer, after="99999999999999-0")
    await writer.end()
    await broker.call("DEL", broker.keys.events(writer.request.request_id))
    with pytest.raises(CursorExpired):
        await collect(hub, writer, after="1-0")
    await broker.call("DEL", broker.keys.request(writer.request.request_id))
    with pytest.raises(RequestNotFound):
        await collect(hub, writer)

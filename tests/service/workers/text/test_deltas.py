from __future__ import annotations

import asyncio

from service.broker.redis.connection import Broker
from service.broker.stream.events import read_events
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.messages import Request, TextPart
from service.workers.text.deltas import DeltaWriter, Said


async def writer(broker: Broker, queue: Queue) -> tuple[DeltaWriter, str]:
    request = Request(content=(TextPart(text="x"),))
    await queue.enqueue(request)
    leases = Leases(broker, "text", "w", 5, 5)
    [delivery] = await leases.claim(0, 1)
    return DeltaWriter(leases, await leases.begin(delivery), 0, Said()), request.request_id


async def test_tokens_of_an_append_in_flight_are_sent_together(
    broker: Broker, queue: Queue
) -> None:
    deltas, request_id = await writer(broker, queue)
    for number, word in enumerate(("a", "b", "c")):
        deltas.add(word, [number])
    await asyncio.sleep(0)  # The append takes all three: it had not begun.
    deltas.add("d", [3])
    deltas.add("e", [4])
    while deltas._pending.text:
        await asyncio.sleep(0.01)
    await deltas.finish()
    texts = [e for e in await read_events(broker, request_id, "0") if e.type == "text.delta"]
    assert [event.data["text"] for event in texts] == ["abc", "de"]
    assert [event.token_ids for event in texts] == [(0, 1, 2), (3, 4)]
    assert deltas.rest() == []


async def test_ids_without_text_wait_for_their_text(broker: Broker, queue: Queue) -> None:
    deltas, request_id = await writer(broker, queue)
    deltas.add("", [7])
    await asyncio.sleep(0.05)
    assert not deltas.started
    deltas.add("ü", [8])
    await deltas.finish()
    events = [*await read_events(broker, request_id, "0")]
    unsent = [event.type for event, _ in deltas.rest()]
    stored = [event.type for event in events if event.type in ("part.start", "text.delta")]
    assert unsent + stored == ["part.start", "text.delta"]
    assert deltas.said.token_ids == [7, 8] and deltas.said.text == "ü"

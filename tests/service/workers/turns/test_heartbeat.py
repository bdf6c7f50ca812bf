from __future__ import annotations

import asyncio
import time

from service.broker.redis.connection import Broker
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.messages import Request, TextPart
from service.workers.turns.heartbeat import Heartbeat

LEASE_S = 0.9


async def test_a_blocked_event_loop_keeps_its_lease(broker: Broker, queue: Queue) -> None:
    await queue.enqueue(Request(content=(TextPart(text="x"),)))
    mine, other = (Leases(broker, "text", name, LEASE_S, 5) for name in ("mine", "other"))
    [delivery] = await mine.claim(0, 1)
    attempt = await mine.begin(delivery)
    heartbeat = Heartbeat(broker.settings, "mine", LEASE_S / 6, lambda lost: None)
    heartbeat.hold(delivery, attempt.fence)
    heartbeat.start()
    time.sleep(2 * LEASE_S)  # blocking the loop is the point
    assert await other.reclaim(5) == []
    heartbeat.drop(delivery)
    await asyncio.sleep(1.3 * LEASE_S)
    assert await other.reclaim(5) == [delivery]
    await asyncio.to_thread(heartbeat.stop)


async def test_what_was_lost_is_told_and_never_taken_back(broker: Broker, queue: Queue) -> None:
    await queue.enqueue(Request(content=(TextPart(text="x"),)))
    mine, other = (Leases(broker, "text", name, 0.05, 5) for name in ("mine", "other"))
    [delivery] = await mine.claim(0, 1)
    attempt = await mine.begin(delivery)
    lost: list[object] = []
    heartbeat = Heartbeat(broker.settings, "mine", 60, lost.append)
    heartbeat.hold(delivery, attempt.fence)
    await asyncio.sleep(0.1)
    [taken] = await other.reclaim(5)
    await heartbeat.beat(broker)
    assert lost == [delivery]
    assert await other.begin(taken) is not None

from __future__ import annotations

import asyncio

from tests.service.workers.conftest import Stage


async def test_many_requests_at_once(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image")
    requests = [await stage.submit(f"prompt {i}", seed=i) for i in range(20)]
    for request, events in zip(
        requests, await asyncio.gather(*map(stage.events, requests)), strict=True
    ):
        await stage.check(request, events)


async def test_a_duplicate_delivery_changes_nothing(stage: Stage) -> None:
    keys, stream = stage.broker.keys, stage.broker.keys.tasks("text", "interactive", 0)
    request = await stage.submit("twice")
    [(_, fields)] = await stage.broker.call("XRANGE", stream, "-", "+")
    for _ in range(3):
        await stage.broker.call("XADD", stream, "*", "task", fields[b"task"])
    await stage.start("text", token_s=0.005)
    await stage.start("image")
    await stage.check(request, await stage.events(request))
    while await stage.queue.depth("text") != (0, 0):
        await asyncio.sleep(0.05)
    assert await stage.broker.call("XLEN", keys.dead_letters(0)) == 0


async def test_interactive_goes_first_and_batch_is_not_starved(stage: Stage) -> None:
    order: list[str] = []
    for number in range(12):
        kind = "batch" if number < 6 else "interactive"
        await stage.submit(f"{kind} {number}", priority=kind, output_modalities=("text",))
    await stage.start("text", concurrency=1, batch_weight=4)
    while len(order) < 12:
        await asyncio.sleep(0.005)
        for request_id in await stage.broker.call("KEYS", "*:request:*"):
            fields = await stage.broker.call("HMGET", request_id, "state", "request")
            name = fields[1].decode()
            if fields[0] == b"completed" and name not in order:
                order.append(name)
    kinds = ["batch" if '"priority":"batch"' in name else "interactive" for name in order]
    assert kinds[0] == "interactive"
    assert kinds[:8].count("interactive") >= 5 and "batch" in kinds[:8]


async def test_finished_tasks_are_trimmed_and_others_are_not(stage: Stage) -> None:
    worker = await stage.start("text", token_s=0.001, maintenance_s=60)
    await stage.start("image", maintenance_s=60)
    requests = [await stage.submit(f"trim {i}") for i in range(5)]
    await asyncio.gather(*map(stage.events, requests))
    worker.drain()
    await stage.tasks[worker]
    left = await stage.submit("undelivered")
    stream = stage.broker.keys.tasks("text", "interactive", 0)
    assert await worker_trim(stage) > 0
    [entry] = [
        fields
        for _, fields in await stage.broker.call("XRANGE", stream, "-", "+")
        if left.request_id.encode() in fields[b"task"]
    ]
    assert entry
    assert await stage.broker.call("XLEN", stream) <= 2
    assert await stage.queue.depth("text") == (1, 0)


async def worker_trim(stage: Stage) -> int:
    from service.broker.turns.leases import Leases

    return await Leases(stage.broker, "text", "test", 1, 3).trim()

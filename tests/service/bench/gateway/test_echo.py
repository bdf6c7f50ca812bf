from __future__ import annotations

import asyncio

from service.bench.gateway.echo import EchoEngine
from service.bench.gateway.reader import read_direct


async def test_all_requests_get_their_tokens_in_the_same_steps() -> None:
    engine = EchoEngine()
    readings = await asyncio.gather(*(read_direct(engine, 5) for _ in range(3)))
    assert [len(reading.delays_ms) for reading in readings] == [5, 5, 5]
    # The first token comes at once, the others step by step.
    assert all(reading.first_ms < reading.last_ms for reading in readings)
    assert all(delay >= 0 for reading in readings for delay in reading.delays_ms)

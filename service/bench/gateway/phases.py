"""The phases of `mmi bench gateway`; each returns figures by name."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import redis

from model.bench.processes import cpu_seconds, resident_mib
from service.bench.gateway.echo import EchoEngine
from service.bench.gateway.reader import (
    Reading,
    ResponseHead,
    read_direct,
    read_head,
    read_names,
    read_stream,
)
from service.broker.redis.connection import cancel_all

Figures = dict[str, Any]
Read = Callable[[], Coroutine[Any, Any, Reading]]


def _num_round_trips(url: str) -> int:
    with redis.Redis.from_url(url) as connection:
        return int(connection.info("stats")["total_reads_processed"])


async def _read_all(read: Read, requests: int, concurrency: int) -> list[Reading]:
    waiting = iter(range(requests))
    readings: list[Reading] = []

    async def reader() -> None:
        for _ in waiting:
            readings.append(await read())

    await asyncio.gather(*(reader() for _ in range(concurrency)))
    return readings


def _figures(readings: list[Reading]) -> dict[str, float]:
    delays = [delay for reading in readings for delay in reading.delays_ms[1:]]
    pauses = [(r.last_ms - r.first_ms) / (len(r.delays_ms) - 1) for r in readings]
    return {
        "first_token_ms": statistics.median(reading.first_ms for reading in readings),
        "first_token_ms_most": max(reading.first_ms for reading in readings),
        "token_delay_ms": statistics.median(delays),
        "token_delay_ms_p99": statistics.quantiles(delays, n=100)[98],
        "ms_between_tokens": statistics.mean(pauses),
    }


async def overhead(
    port: int, url: str, pids: Mapping[str, int], requests: int, concurrency: int, tokens: int
) -> Figures:
    """The cost of a token through the whole service, minus its cost from the engine directly."""
    engine = EchoEngine()
    direct = _figures(
        await _read_all(lambda: read_direct(engine, tokens), concurrency, concurrency)
    )
    # Warm-up: the gateway opens its connections to Redis and keeps them.
    await _read_all(lambda: read_stream(port, 2), 2 * concurrency, concurrency)
    trips, before = _num_round_trips(url), {name: cpu_seconds([pid]) for name, pid in pids.items()}
    readings = await _read_all(lambda: read_stream(port, tokens), requests, concurrency)
    trips = _num_round_trips(url) - trips
    through = _figures(readings)
    figures: Figures = {f"added_{name}": through[name] - direct[name] for name in through}
    figures["redis_round_trips_per_token"] = trips / (requests * tokens)
    for name, pid in pids.items():
        used_s = cpu_seconds([pid]) - before[name]
        figures[f"cpu_ms_per_token_{name}"] = used_s * 1e3 / requests / tokens
    return figures


async def open_streams(port: int, pid: int, count: int) -> Figures:
    """Memory of the gateway with `count` streams open, all receiving tokens."""
    idle, highest, num_open = resident_mib(pid), 0.0, 0
    opened = asyncio.Event()

    async def hold() -> str:
        nonlocal num_open
        names = read_names(port, 20)
        last = await anext(names)  # The status line.
        num_open += 1
        if num_open == count:
            opened.set()
        await opened.wait()  # No stream ends before all are open.
        return [last, *[name async for name in names]][-1]

    streams = [asyncio.create_task(hold()) for _ in range(count)]
    while not all(stream.done() for stream in streams):
        highest = max(highest, resident_mib(pid))
        await asyncio.sleep(0.1)
    ends = Counter(await asyncio.gather(*streams))
    return {
        "open_streams": count,
        "completed_streams": ends.pop("response.completed", 0),
        "other_ends": dict(ends),
        "gateway_mib_idle": idle,
        "gateway_mib_most": highest,
    }


async def overload(port: int, bound: int, requests: int, concurrency: int) -> Figures:
    """How soon a gateway that is at its bound refuses a request."""
    holding = [asyncio.create_task(read_stream(port, 500)) for _ in range(bound)]
    await asyncio.sleep(1)
    waiting = iter(range(requests))
    replies: list[ResponseHead] = []

    async def sender() -> None:
        for _ in waiting:
            replies.append(await read_head(port, 500))

    await asyncio.gather(*(sender() for _ in range(concurrency)))
    await cancel_all(holding)
    refused = [reply for reply in replies if reply.status == 429]
    times = [reply.ms for reply in refused]
    return {
        "asked": len(replies),
        "refused_429": len(refused),
        "with_retry_after": sum("retry-after" in reply.headers for reply in refused),
        "refusal_ms": statistics.median(times),
        "refusal_ms_p99": statistics.quantiles(times, n=100)[98],
        "refusal_ms_most": max(times),
    }

"""The phases of `mmi bench gateway`; each returns figures by name."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import redis

from service.bench.echo import EchoEngine
from service.bench.reader import Reading, Reply, ask, read_direct, read_names, read_stream
from service.broker.connection import cancel_all

Figures = dict[str, Any]
Read = Callable[[], Coroutine[Any, Any, Reading]]


def cpu_s(pid: int) -> float:
    """Processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Memory that a process has resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


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
    """What a token costs through everything, over what it costs from the engine itself."""
    engine = EchoEngine()
    direct = _figures(
        await _read_all(lambda: read_direct(engine, tokens), concurrency, concurrency)
    )
    # Connections of the gateway to Redis stay open from here on.
    await _read_all(lambda: read_stream(port, 2), 2 * concurrency, concurrency)
    trips, before = _num_round_trips(url), {name: cpu_s(pid) for name, pid in pids.items()}
    readings = await _read_all(lambda: read_stream(port, tokens), requests, concurrency)
    trips = _num_round_trips(url) - trips
    through = _figures(readings)
    figures: Figures = {f"added_{name}": through[name] - direct[name] for name in through}
    figures["redis_round_trips_per_token"] = trips / (requests * tokens)
    for name, pid in pids.items():
        figures[f"cpu_ms_per_token_{name}"] = (cpu_s(pid) - before[name]) * 1e3 / requests / tokens
    return figures


async def open_streams(port: int, pid: int, count: int) -> Figures:
    """Memory of the gateway with many streams open, each still getting tokens."""
    idle, highest, num_open = resident_mib(pid), 0.0, 0
    opened = asyncio.Event()

    async def hold() -> str:
        nonlocal num_open
        names = read_names(port, 20)
        last = await anext(names)  # the status
        num_open += 1
        if num_open == count:
            opened.set()
        await opened.wait()  # nobody ends before all are open
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
    """How soon a gateway whose bound is reached says no."""
    holding = [asyncio.create_task(read_stream(port, 500)) for _ in range(bound)]
    await asyncio.sleep(1)
    waiting = iter(range(requests))
    replies: list[Reply] = []

    async def asker() -> None:
        for _ in waiting:
            replies.append(await ask(port, 500))

    await asyncio.gather(*(asker() for _ in range(concurrency)))
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

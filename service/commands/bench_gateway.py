"""`mmi bench gateway`: what gateway and queue cost, with an engine that says the time.

Delays are from the engine's yield to the client's read, so they hold the worker's batching of
deltas, Redis, the gateway and the socket; before the first token also admission and dispatch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import redis
from rich.console import Console
from rich.table import Table

from service.embedded_redis import EmbeddedRedis, free_port
from service.processes import Role


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--requests", type=int, default=20, help="requests for the delays")
    parser.add_argument("--concurrency", type=int, default=1, help="of them at a time")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of each")
    parser.add_argument("--streams", type=int, default=1000, help="streams open at a time")
    parser.add_argument("--out", type=Path, default=Path("out/bench_gateway.json"))


class EchoRole(Role):
    """The worker whose engine says the time."""

    module = "service.benchmark.echo"


def run(args: argparse.Namespace) -> int:
    """Measure and print a table."""
    console = Console()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server = EmbeddedRedis(directory / "redis", directory / "redis.log")
        server.start()
        stack.callback(server.stop)
        port, health = free_port(), free_port()
        environment = {
            "MMI_REDIS_URL": server.url,
            "MMI_AUTH": "off",
            "MMI_PORT": str(port),
            "MMI_HEALTH_PORT": str(health),
            "MMI_CONCURRENCY": str(args.streams + args.concurrency),
            "MMI_DRAIN_S": "0",
        }
        roles = [
            Role("gateway", port, environment, directory / "gateway.log"),
            EchoRole("echo", health, environment, directory / "echo.log"),
        ]
        for role in roles:
            role.start()
            stack.callback(role.wait, 10)
            stack.callback(role.terminate)
        with console.status("starting"):
            while not all(role.ready() for role in roles):
                for role in roles:
                    role.check()
                time.sleep(0.2)
        result = asyncio.run(_measure(args, roles[0], server.url))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    table = Table("figure", "value")
    for key, value in result.items():
        table.add_row(key, f"{value:.3f}" if isinstance(value, float) else str(value))
    console.print(table)
    return 0


async def _measure(args: argparse.Namespace, gateway: Role, redis_url: str) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=args.streams + 64)
    url = f"http://127.0.0.1:{gateway.port}"
    async with httpx.AsyncClient(
        base_url=url, timeout=600, limits=limits, trust_env=False
    ) as client:
        await _stream(client, 5)
        trips = _num_round_trips(redis_url)
        waiting = iter(range(args.requests))
        results: list[tuple[float, list[float]]] = []

        async def sender() -> None:
            for _ in waiting:
                results.append(await _stream(client, args.tokens))

        await asyncio.gather(*(sender() for _ in range(args.concurrency)))
        trips = _num_round_trips(redis_url) - trips
        result = _delays(results) | {
            "redis_round_trips_per_token": trips / (args.requests * args.tokens),
        }
        return result | await _open_streams(client, gateway, args.streams)


def _delays(results: list[tuple[float, list[float]]]) -> dict[str, Any]:
    first = [ms for ms, _ in results]
    later = [ms for _, delays in results for ms in delays]
    return {
        "requests": len(results),
        "first_token_overhead_ms_p50": statistics.median(first),
        "first_token_overhead_ms_max": max(first),
        "token_delay_ms_p50": statistics.median(later),
        "token_delay_ms_p99": statistics.quantiles(later, n=100)[98],
    }


async def _stream(client: httpx.AsyncClient, tokens: int) -> tuple[float, list[float]]:
    """Overhead of the first token and delays of all others, in ms."""
    started, first, delays = time.monotonic_ns(), None, []
    content = [{"type": "text", "text": "x"}]
    document = {"content": content, "max_tokens": tokens, "stream": True}
    document["output_modalities"] = ["text"]
    async with client.stream("POST", "/generate", json=document) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            now, event = time.monotonic_ns(), json.loads(line[6:])
            if event["type"] == "text.delta":
                made = [int(stamp) for stamp in event["text"].split()]
                if first is None:
                    first = (now - started) / 1e6
                delays += [(now - stamp) / 1e6 for stamp in made]
    return first or 0.0, delays[1:]


async def _open_streams(client: httpx.AsyncClient, gateway: Role, count: int) -> dict[str, Any]:
    """Memory of the gateway with many streams open, each still getting tokens."""
    before = _resident_mib(gateway)
    opened = asyncio.Event()
    num_open, highest = 0, 0.0
    document = {
        "content": [{"type": "text", "text": "x"}],
        "max_tokens": 20,
        "output_modalities": ["text"],
        "stream": True,
    }

    async def hold() -> str:
        nonlocal num_open
        async with client.stream("POST", "/generate", json=document) as response:
            last = f"status {response.status_code}"
            num_open += 1
            if num_open == count:
                opened.set()
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    # Nobody ends before all are open.
                    last = line
                    await opened.wait()
        return last

    streams = [asyncio.create_task(hold()) for _ in range(count)]
    while not all(task.done() for task in streams):
        highest = max(highest, _resident_mib(gateway))
        await asyncio.sleep(0.1)
    ends = Counter(await asyncio.gather(*streams))
    return {
        "open_streams": count,
        "completed_streams": ends.pop("event: response.completed", 0),
        "other_ends": dict(ends),
        "gateway_mib_idle": before,
        "gateway_mib_highest": highest,
    }


def _resident_mib(role: Role) -> float:
    status = Path(f"/proc/{role.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def _num_round_trips(redis_url: str) -> int:
    with redis.Redis.from_url(redis_url) as connection:
        return int(connection.info("stats")["total_reads_processed"])

"""`mmi bench redis`: how many stories one Redis carries, and what each of them costs it.

Processes tell stories through the product's own queue, leases and streams, without engines
(`service.bench.redis.story`). Redis runs its commands on one thread, so it saturates where that
thread is busy all the time: at stories per second divided by the thread's share of a core. The
share is measured at growing loads; the figure holds where it stays the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import redis

from model.bench.processes import cpu_seconds
from model.bench.report import Report, print_table
from service import loop
from service.bench.redis.story import StoryLoad, StoryShape
from service.local.embedded_redis import EmbeddedRedis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi bench redis`."""
    shape = StoryShape()
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--processes", type=int, default=2, help="that share the clients")
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    parser.add_argument("--tokens", type=int, default=shape.tokens, help="of each text turn")
    parser.add_argument("--images", type=int, default=shape.images, help="of each story")
    parser.add_argument("--step", type=float, default=shape.step_s, help="seconds of a token")
    parser.add_argument("--out", type=Path, default=Path("out/bench_redis.json"))


def run(args: argparse.Namespace) -> int:
    """Measure each load, print the table, and write the JSON file."""
    report = Report()
    shape = StoryShape(tokens=args.tokens, images=args.images, step_s=args.step)
    rows = []
    for clients in args.clients:
        with tempfile.TemporaryDirectory() as name:
            server = EmbeddedRedis(Path(name) / "redis", Path(name) / "redis.log")
            server.start()
            try:
                rows.append(measure(server, shape, clients, args.processes, args.seconds))
            finally:
                server.stop()
    print_table({name: partial(_shown, name) for name in rows[0]}, rows)
    report.write(args.out, {"shape": asdict(shape), "loads": rows})
    return 0


def _shown(name: str, row: dict[str, float]) -> str:
    return f"{row[name]:.4g}"


def measure(
    server: EmbeddedRedis, shape: StoryShape, clients: int, processes: int, seconds: float
) -> dict[str, float]:
    """Load a server; returns rates, and the processor time and memory that a story costs it."""
    assert server.pid is not None
    context = multiprocessing.get_context("spawn")
    children, pipes = [], []
    for _ in range(processes):
        pipe, theirs = context.Pipe()
        arguments = (server.url, shape, max(1, clients // processes), seconds, theirs)
        child = context.Process(target=_tell, args=arguments, daemon=True)
        child.start()
        theirs.close()
        children.append(child)
        pipes.append(pipe)
    for pipe in pipes:
        pipe.recv()  # It has imported everything.
    commands, before, began = _num_commands(server.url), cpu_seconds([server.pid]), time.monotonic()
    for pipe in pipes:
        pipe.send("begin")
    told = sum(pipe.recv() for pipe in pipes)
    elapsed_s = time.monotonic() - began
    used_s = cpu_seconds([server.pid]) - before
    commands = _num_commands(server.url) - commands
    for child, pipe in zip(children, pipes, strict=True):
        child.join()
        pipe.close()
    if not told:
        raise RuntimeError(f"no story ended within {seconds:g} s")
    return {
        "clients": clients,
        "stories_per_s": told / elapsed_s,
        "share_of_a_core": used_s / elapsed_s,
        "cpu_ms_per_story": 1000 * used_s / told,
        "commands_per_story": commands / told,
        "kib_per_story": _used_memory(server.url) / told / 1024,
        "saturates_at_stories_per_s": told / used_s,
    }


def _tell(
    url: str, shape: StoryShape, clients: int, seconds: float, pipe: Connection[Any, Any]
) -> None:
    """Tell stories in a process of its own; sends their number."""
    load = StoryLoad(url, shape, clients)
    pipe.send("ready")
    pipe.recv()
    loop.run(load.run(seconds))
    pipe.send(load.num_told)


def _num_commands(url: str) -> int:
    return int(_info(url, "stats")["total_commands_processed"])


def _used_memory(url: str) -> int:
    return int(_info(url, "memory")["used_memory"])


def _info(url: str, section: str) -> dict[str, Any]:
    with redis.Redis.from_url(url) as connection:
        found: dict[str, Any] = connection.info(section)
        return found

"""`mmi bench gateway`: the latency and the processor time that the service adds to an engine.

The engine yields timestamps (`service.bench.gateway.echo`). It is read directly first, then through
gateway, queue and worker. `added_*` is the difference:

- `first_token_ms`: from sending the request to its first token;
- `token_delay_ms`: from the engine's yield to the client's read;
- `ms_between_tokens`: from token to token of a stream, the cost in throughput.

Processor time and Redis round trips are averages over all tokens of a phase. The last phase
measures how soon a full gateway refuses a request.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from model.bench.report import Report, print_table
from service import loop
from service.local.embedded_redis import EmbeddedRedis, free_port
from service.local.processes import RoleProcess

_BOUND = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi bench gateway`."""
    parser.add_argument("--requests", type=int, default=20, help="requests per phase, at least")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=100, help="tokens of each")
    parser.add_argument("--streams", type=int, default=1000, help="streams open at a time")
    parser.add_argument("--out", type=Path, default=Path("out/bench_gateway.json"))


class EchoRole(RoleProcess):
    module = "service.bench.gateway.echo"


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write the JSON file."""
    report = Report()
    with tempfile.TemporaryDirectory() as name, _system(Path(name), args.streams) as system:
        result = loop.run(_measure(args, *system))
    print_table({"figure": lambda row: row[0], "value": _shown}, result.items())
    report.write(args.out, result)
    return 0


def _shown(row: tuple[str, Any]) -> str:
    value = row[1]
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@contextmanager
def _system(
    directory: Path, streams: int
) -> Iterator[tuple[EmbeddedRedis, dict[str, RoleProcess]]]:
    """Start Redis, a gateway, a gateway with a low bound (`full`), and the worker."""
    with ExitStack() as stack:
        server = EmbeddedRedis(directory / "redis", directory / "redis.log")
        server.start()
        stack.callback(server.stop)
        roles: dict[str, RoleProcess] = {}
        for name, kind in (("gateway", RoleProcess), ("full", RoleProcess), ("worker", EchoRole)):
            port = free_port()
            environment = {
                "MMI_REDIS_URL": server.url,
                "MMI_AUTH": "off",
                "MMI_PORT": str(port),
                "MMI_HEALTH_PORT": str(port if kind is EchoRole else 0),
                "MMI_CONCURRENCY": str(streams + 64),
                "MMI_DRAIN_S": "0",
                "MMI_MAX_ACTIVE_REQUESTS": str(_BOUND if name == "full" else 10_000),
            }
            command = "gateway" if kind is RoleProcess else name
            role = roles[name] = kind(command, port, environment, directory / f"{name}.log")
            role.start()
            stack.callback(role.wait, 10)
            stack.callback(role.terminate)
        while not all(role.ready() for role in roles.values()):
            for role in roles.values():
                role.check()
            time.sleep(0.2)
        yield server, roles


async def _measure(
    args: argparse.Namespace, server: EmbeddedRedis, roles: dict[str, RoleProcess]
) -> dict[str, Any]:
    # Late: the engine protocol imports torch.
    from service.bench.gateway import phases

    gateway = roles["gateway"]
    assert gateway.pid and roles["worker"].pid and server.pid
    pids = {"gateway": gateway.pid, "worker": roles["worker"].pid, "redis": server.pid}
    result: dict[str, Any] = {}
    for concurrency in args.concurrency:
        requests = max(args.requests, concurrency)
        figures = await phases.overhead(
            gateway.port, server.url, pids, requests, concurrency, args.tokens
        )
        result |= {f"{name} at {concurrency}": value for name, value in figures.items()}
    result |= await phases.open_streams(gateway.port, gateway.pid, args.streams)
    return result | await phases.overload(roles["full"].port, _BOUND, 200, 8)

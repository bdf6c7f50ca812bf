"""Redis as operators run it: behind an ACL, TLS or Sentinel, each by its URL alone."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from service.broker.blobs import BlobStore
from service.broker.keys import GROUP
from service.broker.redis.connection import Broker
from service.broker.redis.server import UnsuitableServer, require_suitable_server
from service.broker.stream.events import EventHub
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.config import RedisSettings
from service.errors import BrokerError, ConnectionLost
from service.local.embedded_redis import EmbeddedRedis, find_server, free_port
from service.messages import PartStartEvent, Request, ResponseCompleted, TextDeltaEvent, TextPart
from tests.service.certificates import Authority

KEDA_RULES = "~mmi:* +ping +hello +info +xinfo|groups +xpending +xlen"

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers; each in a directory of its own."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(*arguments: object) -> subprocess.Popen[bytes]:
        directory = tmp_path / f"server-{len(processes)}"
        directory.mkdir()
        command = [find_server(), *map(str, arguments)]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


async def use(broker: Broker) -> None:
    """Everything that roles do with Redis: scripts, streams, channels, blobs."""
    queue, leases, hub = Queue(broker), Leases(broker, "text", "w", 15, 3), EventHub(broker)
    await queue.create_groups()
    await hub.start()
    request = Request(content=(TextPart(text="x"),))
    await queue.enqueue(request)
    following = asyncio.create_task(follow(hub, request))
    [delivery] = await leases.claim(0, 5)
    attempt = await leases.begin(delivery)
    assert attempt is not None
    await leases.append(attempt, [(PartStartEvent(index=0, kind="text"), "")], open=0)
    await leases.append(attempt, [(TextDeltaEvent(index=0, text="y"), "1")])
    await leases.commit(attempt, [(ResponseCompleted(), "")], state="completed", fields={})
    assert (await asyncio.wait_for(following, 20))[-1] == "response.completed"
    blobs = BlobStore(broker)
    assert await blobs.get(await blobs.put(b"z")) == b"z"
    await hub.stop()


async def follow(hub: EventHub, request: Request) -> list[str]:
    async with contextlib.aclosing(hub.follow(request.request_id)) as events:
        return [event.type async for event in events if event is not None]


async def answers(url: str) -> None:
    """Wait until a server takes commands."""
    broker = Broker(RedisSettings(redis_url=url))
    await broker.call("PING", retry_s=20)
    await broker.close()


async def scale_by_lag(url: str) -> None:
    """What KEDA's triggers ask Redis: the version, the lag and the number of pending entries."""
    broker = Broker(RedisSettings(redis_url=url))
    await broker.call("PING")
    assert "redis_version" in await broker.call("INFO")
    for stream in broker.keys.all_tasks("text"):
        [group] = await broker.client.xinfo_groups(stream)
        pending = await broker.client.xpending(stream, GROUP)
        assert group["lag"] == 0 and pending["pending"] == 0
    await broker.close()


async def test_a_user_of_an_acl(start: Start, tmp_path: Path) -> None:
    port = free_port()
    # As little as it needs: its own keys and channels, and no dangerous command but one.
    rules = "~mmi:* &mmi:* +@all -@dangerous -@admin"
    configuration = tmp_path / "acl.conf"
    configuration.write_text(
        f'port {port}\nsave ""\nuser default off\nuser mmi on >s3:cret/ {rules} +info\n'
        f"user blind on >x {rules}\nuser keda on >y {KEDA_RULES}\n"
    )
    start(configuration)
    url = f"redis://mmi:s3%3Acret%2F@127.0.0.1:{port}/0"
    await answers(url)
    broker = Broker(RedisSettings(redis_url=url))
    await require_suitable_server(broker, retry_s=1)
    await use(broker)
    await broker.close()
    for user in ("mmi:s3%3Acret%2F", "keda:y"):
        await scale_by_lag(f"redis://{user}@127.0.0.1:{port}/0")
    blind = Broker(RedisSettings(redis_url=f"redis://blind:x@127.0.0.1:{port}/0"))
    with pytest.raises(UnsuitableServer, match=r"\+info"):
        await require_suitable_server(blind, retry_s=1)
    await blind.close()
    for wrong in (f"redis://127.0.0.1:{port}/0", f"redis://mmi:no@127.0.0.1:{port}/0"):
        stranger = Broker(RedisSettings(redis_url=wrong))
        with pytest.raises(BrokerError) as refused:
            await stranger.call_once("GET", "mmi:x")
        assert re.search("(?i)auth|password", str(refused.value.__cause__))
        await stranger.close()


@contextlib.asynccontextmanager
async def behind_tls(port: int, authority: Authority) -> AsyncIterator[int]:
    """A port that speaks TLS for the server at `port` (whose own build has none)."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        for one in (inner_writer, writer):
            with contextlib.suppress(OSError):
                await one.wait_closed()

    context = authority.server_context("127.0.0.1")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_tls_with_a_checked_certificate(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with behind_tls(redis_server.port, authority) as port:
        at = redis_server.url.rpartition("@")[0].replace("redis://", "rediss://")
        trusted = Broker(
            RedisSettings(redis_url=f"{at}@127.0.0.1:{port}/0?ssl_ca_certs={authority.path}")
        )
        await trusted.call("FLUSHALL")
        await use(trusted)
        await trusted.close()
        stranger = Broker(RedisSettings(redis_url=f"{at}@127.0.0.1:{port}/0"))
        with pytest.raises(ConnectionLost):
            await stranger.call("PING", retry_s=0)
        await stranger.close()


_SENTINEL = """\
port {port}
bind 127.0.0.1
sentinel monitor served 127.0.0.1 {master} 1
sentinel auth-user served default
sentinel auth-pass served secret
sentinel down-after-milliseconds served 300
sentinel failover-timeout served 3000
requirepass watch
"""


async def replicas(watch: Broker) -> list[dict[str, str]]:
    """The replicas that the sentinel knows."""
    reply = await watch.call("SENTINEL", "REPLICAS", "served")
    lists = [[item.decode() for item in one] for one in reply]
    return [dict(zip(one[::2], one[1::2], strict=True)) for one in lists]


@pytest.mark.slow
async def test_sentinel_and_a_failover(start: Start, tmp_path: Path) -> None:
    master_port, replica_port, port = free_port(), free_port(), free_port()
    common = ("--bind", "127.0.0.1", "--save", "", "--requirepass", "secret")
    common = (*common, "--masterauth", "secret", "--repl-diskless-sync-delay", 0)
    master = start("--port", master_port, *common)
    start("--port", replica_port, *common, "--replicaof", f"127.0.0.1 {master_port}")
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(_SENTINEL.format(port=port, master=master_port))
    start(configuration, "--sentinel")
    url = (
        f"redis+sentinel://:secret@127.0.0.1:{port}/served?sentinel_password=watch"
        "&sentinel_username=default"
    )
    await answers(url)
    broker = Broker(RedisSettings(redis_url=url, redis_timeout_s=1.0))
    await use(broker)
    queue, hub = Queue(broker), EventHub(broker)
    await hub.start()
    request = Request(content=(TextPart(text="before"),))
    await queue.enqueue(request)
    following = asyncio.create_task(follow(hub, request))
    await broker.call("WAIT", 1, 20_000)
    watch = Broker(RedisSettings(redis_url=f"redis://:watch@127.0.0.1:{port}/0"))
    while not any(known["flags"] == "slave" for known in await replicas(watch)):
        await asyncio.sleep(0.1)

    master.kill()

    # The same broker, request and stream go on at the replica that was promoted.
    await broker.call("SET", "mmi:{0}:probe", "1", retry_s=60)
    assert (await queue.status(request.request_id)).request == request
    leases = Leases(broker, "text", "w", 15, 3)
    [delivery] = await leases.claim(0, 5)
    attempt = await leases.begin(delivery)
    assert attempt is not None
    await leases.commit(attempt, [(ResponseCompleted(), "")], state="completed", fields={})
    assert (await asyncio.wait_for(following, 60))[-1] == "response.completed"
    await use(broker)
    await hub.stop()
    await watch.close()
    await broker.close()

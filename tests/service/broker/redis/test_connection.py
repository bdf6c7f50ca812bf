from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.broker.blobs import BlobStore
from service.broker.redis.connection import Broker
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.config import RedisSettings
from service.errors import BlobNotFound, BrokerError, CommandRefused, ConnectionLost, GroupMissing
from service.local.embedded_redis import EmbeddedRedis, find_server, free_port
from service.messages import Request, TextPart


async def test_blobs_are_found_by_their_hash_and_expire(broker: Broker) -> None:
    blobs = BlobStore(broker)
    digest = await blobs.put(b"bytes")
    assert digest == await blobs.put(b"bytes")
    assert await blobs.get(digest) == b"bytes"
    assert 0 < await broker.call("TTL", broker.keys.blob(digest)) <= broker.settings.blob_ttl_s
    assert await blobs.exists(digest) and not await blobs.exists("0" * 64)
    with pytest.raises(BlobNotFound):
        await blobs.get("0" * 64)


async def test_calls_outlive_a_restart_of_redis(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path, tmp_path / "log")
    server.start()
    broker = Broker(RedisSettings(redis_url=server.url))
    queue = Queue(broker)
    await queue.create_groups()
    request = Request(content=(TextPart(text="x"),))
    await queue.enqueue(request)
    # While the disk is slow Redis holds back what it has not yet written, and a kill loses that.
    await broker.call("WAITAOF", 1, 0, 10_000)
    server._process.send_signal(signal.SIGKILL)
    server._process.wait()
    assert not await broker.ping()
    with pytest.raises(ConnectionLost):
        await broker.call("PING", retry_s=0.1)
    waiting = asyncio.create_task(queue.status(request.request_id))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(server.start)
    assert (await waiting).request == request
    assert [d.request_id for d in await Leases(broker, "text", "w", 1, 3).claim(0, 5)] == [
        request.request_id
    ]
    await broker.close()
    server.stop()


@pytest.fixture
def cluster_port(tmp_path: Path) -> Iterator[int]:
    """Port of a Redis Cluster of one node: slots are checked as in a large one."""
    port = free_port()
    # The default, 10,000 above the port, can lie beyond the last one.
    bus = ["--cluster-port", str(free_port())]
    command = [find_server(), "--port", str(port), "--cluster-enabled", "yes", "--save", "", *bus]
    process = subprocess.Popen(
        [*command, "--dir", tmp_path, "--bind", "127.0.0.1", "--logfile", tmp_path / "log"]
    )
    yield port
    process.terminate()
    process.wait()


async def test_a_cluster_with_several_partitions(cluster_port: int) -> None:
    plain = Broker(RedisSettings(redis_url=f"redis://127.0.0.1:{cluster_port}"))
    await plain.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    while (await plain.call("CLUSTER INFO"))["cluster_state"] != "ok":
        await asyncio.sleep(0.05)
    await plain.close()
    # Of the nodes that a URL names, one must answer.
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{cluster_port}"
    broker = Broker(RedisSettings(redis_url=url, num_partitions=4))
    queue, leases = Queue(broker), Leases(broker, "text", "w", 1, 3)
    await queue.create_groups()
    # Fixed ids: with random ones, all may fall into partitions that have nothing to trim.
    requests = [
        Request(request_id=f"req_{i:032x}", content=(TextPart(text="x"),)) for i in range(12)
    ]
    for request in requests:
        await queue.enqueue(request)
    assert len({broker.keys.partition(request.request_id) for request in requests}) > 1
    assert await queue.depth("text") == (12, 0)
    taken = [d for p in range(4) for d in await leases.claim(p, 12)]
    assert {d.request_id for d in taken} == {request.request_id for request in requests}
    attempt = await leases.begin(taken[0])
    await leases.commit(attempt, [], state="completed", fields={})
    await queue.cancel(taken[1].request_id)
    assert (await queue.load()).active_requests == 10
    assert await queue.expire_due() == 0
    assert await leases.trim() >= 1
    blobs = BlobStore(broker)
    assert await blobs.get(await blobs.put(b"x")) == b"x"
    await broker.close()


async def test_a_request_is_accepted_only_once_it_is_on_disk(broker: Broker) -> None:
    careful = Broker(broker.settings.model_copy(update={"wait_aof": True}))
    queue = Queue(careful)
    await queue.create_groups()
    # Several connections in the pool: the one that waits is not the one that has written.
    await asyncio.gather(*(careful.call("PING") for _ in range(8)))
    await broker.call("CONFIG", "SET", "appendfsync", "no")
    try:
        request = Request(content=(TextPart(text="x"),))
        admission = asyncio.create_task(queue.enqueue(request))
        while not await broker.call("EXISTS", broker.keys.request(request.request_id)):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert not admission.done()
    finally:
        await broker.call("CONFIG", "SET", "appendfsync", "everysec")
    while not admission.done():
        await broker.call("SET", "anything", 1)
        await asyncio.sleep(0.05)
    assert (await admission).created
    await careful.close()


async def test_without_an_append_only_file_nothing_is_promised(broker: Broker) -> None:
    careful = Broker(broker.settings.model_copy(update={"wait_aof": True}))
    queue = Queue(careful)
    await queue.create_groups()
    await broker.call("CONFIG", "SET", "appendonly", "no")
    try:
        with pytest.raises(BrokerError):
            await queue.enqueue(Request(content=(TextPart(text="x"),)))
    finally:
        await broker.call("CONFIG", "SET", "appendonly", "yes")
    await careful.close()


def test_a_cluster_cannot_be_waited_for() -> None:
    with pytest.raises(ValidationError):
        RedisSettings(redis_url="redis+cluster://127.0.0.1:7000", wait_aof=True)


async def test_errors_of_redis_are_the_services_own(broker: Broker) -> None:
    await broker.call("SET", "text", "x")
    with pytest.raises(CommandRefused):
        await broker.call("HGET", "text", "field")
    with pytest.raises(CommandRefused):
        await broker.script("due", ["text"], 1)
    read = ("XREADGROUP", "GROUP", "workers", "w", "STREAMS")
    with pytest.raises(GroupMissing):
        await broker.call_once(*read, "nothing", ">")
    # A reader that waits for a stream notices when the stream is deleted.
    await broker.create_group("stream")
    await broker.create_group("stream")
    waiting = asyncio.create_task(
        broker.call_once(*read[:4], "BLOCK", 5000, "STREAMS", "stream", ">")
    )
    await asyncio.sleep(0.1)
    await broker.call("DEL", "stream")
    with pytest.raises(GroupMissing):
        await waiting


async def test_scripts_survive_their_removal(broker: Broker) -> None:
    assert await broker.script("due", ["none"], 1) == []
    await broker.call("SCRIPT", "FLUSH")
    assert await broker.script("due", ["none"], 1) == []

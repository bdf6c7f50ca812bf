"""Which servers are refused, and that the one in use keeps what autoscaling needs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from service.broker.keys import GROUP
from service.broker.redis import server
from service.broker.redis.connection import Broker
from service.broker.redis.server import UnsuitableServer, identify, require_suitable_server, suits
from service.config import RedisSettings
from service.local.embedded_redis import EmbeddedRedis


@pytest.mark.parametrize(
    ("information", "name", "version", "good"),
    [
        ({"redis_version": "7.0.15"}, "redis", (7, 0), False),
        ({"redis_version": "7.2.5"}, "redis", (7, 2), False),
        ({"redis_version": "7.4.0"}, "redis", (7, 4), True),
        ({"redis_version": "8.2.1"}, "redis", (8, 2), True),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.9"}, "valkey", (7, 2), False),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.4"}, "valkey", (8, 1), True),
    ],
)
def test_the_versions_that_will_do(
    information: dict[str, str], name: str, version: tuple[int, int], good: bool
) -> None:
    assert identify(information) == (name, version)
    assert suits(name, version) is good


async def test_a_server_that_is_too_old_is_refused_with_the_alternatives(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await require_suitable_server(broker, retry_s=1)
    monkeypatch.setattr(server, "MINIMUM", {"redis": (99, 0), "valkey": (99, 0)})
    with pytest.raises(UnsuitableServer, match="use Valkey 8 or later, or Redis 7.4 or later"):
        await require_suitable_server(broker, retry_s=1)


async def lag(broker: Broker, stream: str) -> int | None:
    [group] = await broker.client.xinfo_groups(stream)
    return group["lag"]


async def test_the_lag_survives_a_kill_and_the_replay_of_the_log(tmp_path: Path) -> None:
    redis = EmbeddedRedis(tmp_path / "data", tmp_path / "log")
    redis.start()
    try:
        broker = Broker(RedisSettings(redis_url=redis.url))
        stream = broker.keys.tasks("text", "interactive", 0)
        await broker.create_group(stream)
        for number in range(5):
            await broker.call("XADD", stream, "*", "task", number)
        read = ("XREADGROUP", "GROUP", GROUP, "w", "COUNT", 2, "STREAMS", stream, ">")
        await broker.call_once(*read)
        assert await lag(broker, stream) == 3
        await broker.wait_until_on_disk()
        assert redis.pid is not None
        os.kill(redis.pid, signal.SIGKILL)
        redis.stop()
        redis.start()
        await broker.call("PING", retry_s=20)
        assert await lag(broker, stream) == 3
        await broker.close()
    finally:
        redis.stop()

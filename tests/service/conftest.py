from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.broker.redis.connection import Broker
from service.broker.turns.queue import Queue
from service.config import RedisSettings
from service.local.embedded_redis import EmbeddedRedis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real Redis for the session."""
    directory: Path = tmp_path_factory.mktemp("redis")
    server = EmbeddedRedis(directory, directory / "redis.log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def broker(redis_server: EmbeddedRedis) -> AsyncIterator[Broker]:
    """A broker on an empty database."""
    settings = RedisSettings(
        redis_url=redis_server.url, max_text_work=10_000, max_image_work=2_000, num_partitions=1
    )
    broker = Broker(settings)
    await broker.call("FLUSHALL")
    yield broker
    await broker.close()


@pytest.fixture
async def queue(broker: Broker) -> Queue:
    """A queue with its groups."""
    queue = Queue(broker)
    await queue.create_groups()
    return queue

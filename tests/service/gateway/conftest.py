"""A real gateway on a real port, a real Valkey, and workers with scripted engines."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import redis
import uvicorn
from PIL import Image

from service.config import GatewaySettings
from service.gateway.app import create_app
from service.gateway.deps import Gateway
from service.local.embedded_redis import EmbeddedRedis
from tests.service.gateway.scripted import ScriptedWorkers


class Client:
    """An HTTP client of one running gateway."""

    def __init__(self, http: httpx.AsyncClient, gateway: Gateway, workers: ScriptedWorkers) -> None:
        self.http, self.gateway, self.workers = http, gateway, workers

    async def post(self, document: Any, path: str = "/generate", **options: Any) -> httpx.Response:
        return await self.http.post(path, json=document, **options)

    async def events(
        self, method: str, path: str, stop_after: int | None = None, **options: Any
    ) -> list[tuple[str, dict[str, Any]]]:
        """Ids and documents of a stream, up to its end or the number given."""
        found: list[tuple[str, dict[str, Any]]] = []
        async with self.http.stream(method, path, **options) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("text/event-stream")
            event_id = ""
            async for line in response.aiter_lines():
                if line.startswith("id: "):
                    event_id = line[4:]
                if line.startswith("data: "):
                    found.append((event_id, json.loads(line[6:])))
                    if stop_after is not None and len(found) >= stop_after:
                        break
        return found


@contextlib.asynccontextmanager
async def running(settings: GatewaySettings) -> AsyncIterator[Client]:
    app = create_app(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    gateway: Gateway = app.state.gateway
    await gateway.queue.create_groups()
    workers = ScriptedWorkers(gateway.broker)
    workers.start()
    port = listener.getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            yield Client(http, gateway, workers)
    finally:
        await workers.stop()
        gateway.relay.stopping.set()
        server.should_exit = True
        await serving
        listener.close()


StartGateway = Callable[..., contextlib.AbstractAsyncContextManager[Client]]


@pytest.fixture
def start_gateway(redis_server: EmbeddedRedis) -> StartGateway:
    with redis.Redis.from_url(redis_server.url) as connection:
        connection.flushall()

    def start(**options: Any) -> contextlib.AbstractAsyncContextManager[Client]:
        defaults = {"redis_url": redis_server.url, "auth": "off", "redis_retry_s": 1.0}
        return running(GatewaySettings(**defaults | options))

    return start


@pytest_asyncio.fixture
async def client(start_gateway: StartGateway) -> AsyncIterator[Client]:
    async with start_gateway() as client:
        yield client


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


@pytest.fixture
def picture() -> bytes:
    return encode(Image.linear_gradient("L").resize((40, 30)).convert("RGB"))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"

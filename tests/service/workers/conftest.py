from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from PIL import Image

from service.broker.blobs import BlobStore
from service.broker.redis.connection import Broker
from service.broker.stream.events import EventHub
from service.broker.turns.queue import Queue
from service.config import ImageWorkerSettings, TextWorkerSettings
from service.messages import Request, RequestImageParams, StoredEvent, TextPart
from service.workers.base import Worker
from service.workers.image import worker as image_worker
from service.workers.text import worker as text_worker
from tests.faults.engines import FakeImageEngine, FakeTextEngine, Speed, expected_answer


class Stage:
    """Workers of this test, in this process."""

    def __init__(self, broker: Broker, notes: Path) -> None:
        self.broker = broker
        self.queue = Queue(broker)
        self.blobs = BlobStore(broker)
        self.hub = EventHub(broker)
        self.notes = notes
        self.workers: list[Worker] = []
        self.engines: list[FakeTextEngine | FakeImageEngine] = []
        self.tasks: dict[Worker, asyncio.Task[int]] = {}

    async def start(self, kind: str, token_s: float = 0.001, **settings: object) -> Worker:
        """Start a worker and wait until it takes work."""
        speed = Speed(token_s, token_s, str(self.notes))
        common = {
            "redis_url": self.broker.settings.redis_url,
            "num_partitions": self.broker.settings.num_partitions,
            "health_port": 0,
            "lease_s": 0.6,
            "maintenance_s": 0.1,
        }
        if kind == "text":
            engine = FakeTextEngine(speed)
            worker = text_worker.create(TextWorkerSettings(**common | settings), engine)
        else:
            drawing = FakeImageEngine(speed)
            worker = image_worker.create(ImageWorkerSettings(**common | settings), drawing)
            engine = drawing
        self.engines.append(engine)
        self.workers.append(worker)
        self.tasks[worker] = asyncio.create_task(worker.run())
        while not await worker._ready():
            await asyncio.sleep(0.01)
        return worker

    async def submit(self, prompt: str, seed: int = 0, steps: int = 5, **fields: object) -> Request:
        """Accept a request."""
        drawn = RequestImageParams(num_inference_steps=steps, seed=seed)
        request = Request(content=(TextPart(text=prompt),), **{"image": drawn} | fields)
        await self.queue.enqueue(request)
        return request

    async def events(self, request: Request, after: str | None = None) -> list[StoredEvent]:
        """All events up to the terminal one."""
        async with aclosing(self.hub.follow(request.request_id, after)) as events:
            return [event async for event in events if event is not None]

    async def answer(self, events: list[StoredEvent]) -> list[object]:
        """The parts that these events tell."""
        parts: list[object] = []
        for event in events:
            data = event.data
            if event.type == "part.start":
                assert data["index"] == len(parts), "a part began twice, or out of order"
                parts.append("")
            elif event.type == "text.delta":
                assert data["index"] == len(parts) - 1
                parts[-1] += data["text"]
            elif event.type == "image.done":
                picture = Image.open(io.BytesIO(await self.blobs.get(data["sha256"])))
                parts[-1] = picture.getpixel((0, 0))
        return parts

    async def check(self, request: Request, events: list[StoredEvent]) -> None:
        """The events tell the whole answer, once and in order."""
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [event.type for event in events if event.terminal] == ["response.completed"]
        prompt = request.content[0].text
        assert await self.answer(events) == expected_answer(prompt, request.image.seed)

    async def stop(self) -> list[int]:
        """Stop all workers."""
        for worker in self.workers:
            worker.drain()
        return list(await asyncio.gather(*self.tasks.values()))


@pytest.fixture
async def stage(broker: Broker, queue: Queue, tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(broker, tmp_path)
    await stage.hub.start()
    yield stage
    await stage.stop()
    await stage.hub.stop()

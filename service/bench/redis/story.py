"""Workers and clients without engines: what a story costs Redis, and nothing else.

Every call to Redis is the product's own; only what an engine would compute is made up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass

from pydantic import SecretStr

from service.broker.blobs import BlobStore
from service.broker.redis.connection import Broker, cancel_all
from service.broker.stream.events import EventHub
from service.broker.turns.attempt import Attempt
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.config import RedisSettings
from service.messages import (
    Event,
    ImageDoneEvent,
    ImageProgressEvent,
    ImageResult,
    ImageTask,
    PartDoneEvent,
    PartStartEvent,
    Request,
    Stage,
    TextDeltaEvent,
    TextPart,
    TextResult,
    TextTask,
)
from service.workers.process import consumer_name
from service.workers.turns.answer import Answer

_WORD = "something "
_BLOCK_MS = 200
_LEASE_S = 60.0


@dataclass(frozen=True)
class StoryShape:
    """What a story consists of.

    Attributes:
        tokens: of each text turn, one event each.
        images: of the story; a text turn before and after each.
        progress_events: of each image.
        image_bytes: of each image.
        step_s: time between two tokens of a turn; turns of one worker share their steps.
    """

    tokens: int = 80
    images: int = 2
    progress_events: int = 10
    image_bytes: int = 100_000
    step_s: float = 0.02


class StoryLoad:
    """Clients that keep stories in progress, and workers that tell them."""

    def __init__(self, url: str, shape: StoryShape, num_clients: int) -> None:
        self._shape, self._num_clients = shape, num_clients
        self._broker = Broker(
            RedisSettings(redis_url=SecretStr(url), max_active_requests=1_000_000)
        )
        self._queue, self._blobs = Queue(self._broker), BlobStore(self._broker)
        self._hub = EventHub(self._broker)
        self._leases: dict[Stage, Leases] = {
            "text": Leases(self._broker, "text", consumer_name(), _LEASE_S, 5),
            "image": Leases(self._broker, "image", consumer_name(), _LEASE_S, 5),
        }
        self.num_told = 0

    async def run(self, seconds: float) -> None:
        """Tell stories for so long; `num_told` counts those that ended."""
        await self._queue.create_groups()
        await self._hub.start()
        loops: list[Coroutine[None, None, None]] = [
            *(self._client(number) for number in range(self._num_clients)),
            self._worker("text", self._text_turn),
            self._worker("image", self._image_turn),
        ]
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION
            )
        finally:
            await cancel_all(tasks)
            await self._hub.stop()
            await self._broker.close()
        for task in done:
            task.result()

    async def _client(self, number: int) -> None:
        while True:
            request = Request(content=(TextPart(text=f"{os.getpid()} {number}"),))
            await self._queue.enqueue(request)
            following = self._hub.follow(request.request_id)
            async with aclosing(following) as events:  # type: ignore[type-var]
                async for _ in events:
                    pass
            self.num_told += 1

    async def _worker(
        self, stage: Stage, turn: Callable[[Attempt], Coroutine[None, None, None]]
    ) -> None:
        leases = self._leases[stage]
        async with asyncio.TaskGroup() as turns:
            while True:
                for delivery in await leases.claim(0, self._num_clients, block_ms=_BLOCK_MS):
                    attempt = await leases.begin(delivery)
                    if attempt is not None:
                        turns.create_task(turn(attempt))

    async def _text_turn(self, attempt: Attempt) -> None:
        answer, shape = Answer(attempt.status), self._shape
        index, leases = answer.next_index, self._leases["text"]
        start: list[tuple[Event, str]] = [(PartStartEvent(index=index, kind="text"), "")]
        await leases.append(attempt, start, open=index)
        for token in range(shape.tokens):
            await asyncio.sleep(shape.step_s)
            await leases.append(attempt, [(TextDeltaEvent(index=index, text=_WORD), str(token))])
        answer.add(TextResult(text=_WORD * shape.tokens, token_ids=tuple(range(shape.tokens))))
        answer.bill_text(shape.tokens)
        events: list[tuple[Event, str]] = [(PartDoneEvent(index=index), "")]
        task = None
        if answer.usage.images < shape.images:
            tokens = await self._blobs.put(os.urandom(shape.image_bytes))
            task = ImageTask(
                request_id=attempt.request_id,
                turn=attempt.task.turn + 1,
                index=answer.next_index,
                image_tokens=tokens,
                seed=0,
            )
        else:
            events += answer.complete()
        await leases.commit(
            attempt, events, next_task=task, state=answer.state, fields=answer.fields()
        )

    async def _image_turn(self, attempt: Attempt) -> None:
        answer, shape = Answer(attempt.status), self._shape
        index, leases = answer.next_index, self._leases["image"]
        assert isinstance(attempt.task, ImageTask)
        await self._blobs.get(attempt.task.image_tokens)
        start: list[tuple[Event, str]] = [(PartStartEvent(index=index, kind="image"), "")]
        await leases.append(attempt, start, open=index)
        for step in range(1, shape.progress_events + 1):
            await asyncio.sleep(shape.step_s)
            progress = ImageProgressEvent(index=index, step=step, total=shape.progress_events)
            await leases.append(attempt, [(progress, "")])
        digest = await self._blobs.put(os.urandom(shape.image_bytes))
        result = ImageResult(sha256=digest, mime="image/webp", width=512, height=512, seed=0)
        answer.add(result)
        answer.bill_image(shape.progress_events)
        done = ImageDoneEvent(index=index, **result.image.model_dump())
        task = TextTask(request_id=attempt.request_id, turn=attempt.task.turn + 1)
        await leases.commit(
            attempt,
            [(done, ""), (PartDoneEvent(index=index), "")],
            next_task=task,
            fields=answer.fields(),
        )

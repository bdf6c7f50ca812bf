"""Workers with scripted engines: the real turns, without a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from model.engine.protocol import (
    ImageEnd,
    ImagePreview,
    ImageProgress,
    TextDelta,
    TextEnd,
    TextLimits,
)
from model.sampling_params import ImageMode, ImageParams, SamplingParams, TokenScore
from service.broker.redis.connection import Broker
from service.broker.turns.attempt import Delivery
from service.broker.turns.leases import Leases
from service.broker.turns.queue import Queue
from service.errors import DeadlineExceeded, Permanent, StaleAttempt
from service.workers.image.worker import ImageTurns
from service.workers.text.worker import TextTurns


@dataclass(frozen=True)
class RecordedParams(SamplingParams):
    """Sampling parameters with what was passed beside them."""

    max_tokens: int = 0
    images: ImageMode = "allow"


class ScriptedText:
    """Says "once upon", draws, says "the end"."""

    def __init__(self) -> None:
        self.hold = asyncio.Event()
        self.hold.set()
        self.contexts: list[Any] = []
        self.samplings: list[RecordedParams] = []
        self.requests: list[str] = []

    def limits(self) -> TextLimits:
        return TextLimits(1_000_000, 1_000, 1)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def generate(
        self,
        context: Any,
        sampling: SamplingParams,
        request_id: str,
        max_tokens: int = 256,
        images: ImageMode = "allow",
        resume: tuple[int, ...] = (),
        priority: int = 0,
    ) -> AsyncIterator[TextDelta | TextEnd]:
        self.requests.append(request_id.partition("/")[0])
        self.contexts.append(context)
        self.samplings.append(
            RecordedParams(**vars(sampling), max_tokens=max_tokens, images=images)
        )
        drawn = int(request_id.split("/")[1]) > 0  # the number of the turn
        if images != "force":
            words = ("the ", "end") if drawn else ("once ", "upon ")
            for number, word in enumerate(words):
                scored = sampling.logprobs is not None
                yield TextDelta(word, (10 + number,), (TokenScore(word, -0.5),) if scored else ())
                await asyncio.sleep(0.01)
                await self.hold.wait()
        draw = images == "force" or (images == "allow" and not drawn)
        tokens = torch.zeros(77, 4) if draw else None
        yield TextEnd("image" if draw else "stop", 5, 2, 2, tokens)


class ScriptedImages:
    """Draws a grey square in four steps."""

    def __init__(self) -> None:
        self.samplings: list[ImageParams] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def generate(
        self,
        image_tokens: torch.Tensor,
        previous: Any,
        sampling: ImageParams,
        request_id: str,
        deadline: float | None = None,
    ) -> AsyncIterator[ImageProgress | ImagePreview | ImageEnd]:
        self.samplings.append(sampling)
        picture = Image.new("RGB", (16, 16), (sampling.seed % 256, 90, 90))
        for step in range(1, 5):
            yield ImageProgress(step, 4)
            if step <= sampling.num_previews:
                yield ImagePreview(step, picture)
            await asyncio.sleep(0.005)
        yield ImageEnd(picture, sampling.seed)


class ScriptedWorkers:
    """Both stages, run in this process."""

    def __init__(self, broker: Broker) -> None:
        self.text, self.images = ScriptedText(), ScriptedImages()
        text_leases = Leases(broker, "text", "scripted", 15, 5)
        image_leases = Leases(broker, "image", "scripted", 15, 5)
        self._stages = (
            (text_leases, TextTurns(self.text, text_leases, broker)),
            (image_leases, ImageTurns(self.images, image_leases, broker, 0.0)),
        )
        self._queue = Queue(broker)
        self.errors: list[Exception] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        for leases, turns in self._stages:
            self._spawn(self._consume(leases, turns))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)

    async def _consume(self, leases: Leases, turns: Any) -> None:
        while True:
            for delivery in await leases.claim(0, 4, block_ms=50):
                self._spawn(self._run(leases, turns, delivery))

    async def _run(self, leases: Leases, turns: Any, delivery: Delivery) -> None:
        try:
            if (attempt := await leases.begin(delivery)) is not None:
                await turns.run(attempt)
        except StaleAttempt:
            return
        except (DeadlineExceeded, TimeoutError):
            await self._queue.expire(delivery.request_id)
        except Exception as error:
            # The real worker distinguishes errors; here the request only has to end.
            self.errors.append(error)
            await self._queue.fail(delivery.request_id, Permanent())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

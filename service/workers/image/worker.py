"""The image stage: generates the image that a text turn has begun."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace

import safetensors.torch
import torch

from model.engine.image.options import ImageEngineOptions
from model.engine.protocol import ImageEnd, ImageEngine, ImagePreview, ImageProgress
from service import loop, messages
from service.broker.blobs import BlobStore
from service.broker.redis.connection import Broker
from service.broker.turns.attempt import Attempt
from service.broker.turns.leases import Leases
from service.config import ImageWorkerSettings
from service.errors import InvalidRequest
from service.messages import Event, ImageResult, ImageTask, Stage, TextTask
from service.telemetry import tracing
from service.telemetry.log import configure
from service.telemetry.metrics import IMAGE_STEPS, IMAGES
from service.telemetry.tracing import Phases
from service.workers.base import Worker
from service.workers.checkpoint import choose_checkpoint
from service.workers.images import MIME_TYPES, ImageCache, encode
from service.workers.process import consumer_name, end_on_signal
from service.workers.turns.answer import Answer

_PREVIEW_TTL_S = 600


class ImageTurns:
    """Runs image turns on an engine."""

    stage: Stage = "image"

    def __init__(
        self, engine: ImageEngine, leases: Leases, broker: Broker, progress_interval_s: float
    ) -> None:
        self.engine = engine
        self._leases = leases
        self._blobs = BlobStore(broker)
        self._images = ImageCache(self._blobs)
        self._progress_interval_s = progress_interval_s

    async def announce(self) -> None:
        """Do nothing: gateways need to know nothing of the image engine."""

    async def run(self, attempt: Attempt) -> None:
        async with asyncio.timeout(attempt.deadline - time.monotonic()):
            if attempt.open_part is None:
                index = self._task(attempt).index
                start = messages.PartStartEvent(index=index, kind="image")
                await self._leases.append(attempt, [(start, "")], open=index)
            try:
                end = await self._draw(attempt)
            except ValueError as error:
                raise InvalidRequest("The image cannot be drawn with these parameters.") from error
            with tracing.span("commit"):
                await self._commit(attempt, end)

    def _task(self, attempt: Attempt) -> ImageTask:
        assert isinstance(attempt.task, ImageTask)
        return attempt.task

    async def _draw(self, attempt: Attempt) -> ImageEnd:
        """Generate the image, reporting progress."""
        task = self._task(attempt)
        previous = None
        if task.previous_image is not None:
            previous = await self._images.segment(task.previous_image)
        stream = self.engine.generate(
            await self._image_tokens(task),
            previous,
            replace(attempt.request.image, seed=task.seed),
            f"{attempt.request_id}/{task.turn}/{attempt.fence}",
            deadline=attempt.deadline,
        )
        phases = Phases("prepare")
        report = ProgressReport(self._leases, attempt, task.index, self._progress_interval_s)
        async with aclosing(stream) as items:  # type: ignore[type-var]
            async for item in items:
                match item:
                    case ImageEnd():
                        phases.record()
                        return item
                    case ImagePreview():
                        await self._preview(report, item)
                    case ImageProgress(step=0):
                        phases.begin("denoise")
                    case ImageProgress():
                        IMAGE_STEPS.inc()
                        await report.step(item)
                        if item.step == item.total:
                            phases.begin("decode")
        raise RuntimeError("the engine ended without an image")

    async def _image_tokens(self, task: ImageTask) -> torch.Tensor:
        """The conditioning that the text stage has stored.

        Raises:
            BlobNotFound: it has expired.
        """
        return safetensors.torch.load(await self._blobs.get(task.image_tokens))["image_tokens"]

    async def _preview(self, report: ProgressReport, preview: ImagePreview) -> None:
        data = await asyncio.to_thread(encode, preview.image, "webp")
        await report.preview(preview.number, await self._blobs.put(data, _PREVIEW_TTL_S))

    async def _commit(self, attempt: Attempt, end: ImageEnd) -> None:
        """Store the image, and enqueue the next text task or end the request."""
        task, request, answer = self._task(attempt), attempt.request, Answer(attempt.status)
        data = await asyncio.to_thread(encode, end.image, request.image.format)
        result = ImageResult(
            sha256=await self._blobs.put(data),
            mime=MIME_TYPES[request.image.format],
            width=end.image.width,
            height=end.image.height,
            seed=end.seed,
        )
        answer.add(result)
        answer.bill_image(request.image.num_inference_steps)
        done = messages.ImageDoneEvent(index=task.index, **result.image.model_dump())
        events: list[tuple[Event, str]] = [
            (done, ""),
            (messages.PartDoneEvent(index=task.index), ""),
        ]
        following = None
        if "text" not in request.output_modalities and answer.images_left <= 0:
            events += answer.complete()
        elif "text" in request.output_modalities and answer.tokens_left <= 0:
            events += answer.incomplete("max_tokens")
        else:
            following = TextTask(
                request_id=request.request_id, turn=task.turn + 1, traceparent=task.traceparent
            )
        IMAGES.inc()
        await self._leases.commit(
            attempt,
            events,
            next_task=following,
            state=answer.state,
            image_work=request.image.num_inference_steps,
            fields=answer.fields(),
        )


class ProgressReport:
    """Reports new steps and previews; steps at least `interval_s` apart, except for the last."""

    def __init__(self, leases: Leases, attempt: Attempt, index: int, interval_s: float) -> None:
        self._leases = leases
        self._attempt = attempt
        self._index = index
        self._interval_s = interval_s
        self._last_step = int(attempt.fields.get("progress", 0))
        self._num_previews = int(attempt.fields.get("previews", 0))
        self._next_at = 0.0

    async def step(self, progress: ImageProgress) -> None:
        """Report a step, unless it was reported or the last report is too recent."""
        now = time.monotonic()
        if progress.step <= self._last_step or (
            now < self._next_at and progress.step < progress.total
        ):
            return
        self._next_at = now + self._interval_s
        self._last_step = progress.step
        event = messages.ImageProgressEvent(
            index=self._index, step=progress.step, total=progress.total
        )
        await self._leases.append(self._attempt, [(event, "")], progress=progress.step)

    async def preview(self, number: int, sha256: str) -> None:
        """Report a preview, unless it was reported; previews are numbered from 1."""
        if number <= self._num_previews:
            return
        self._num_previews = number
        event = messages.ImagePreviewEvent(
            index=self._index, n=number, mime=MIME_TYPES["webp"], sha256=sha256
        )
        await self._leases.append(self._attempt, [(event, "")], previews=number)


def main(settings: ImageWorkerSettings) -> int:
    """The process of `mmi image-worker`."""
    end_on_signal()
    configure("image-worker", settings.log_level)
    from model.engine.image.engine import BatchedImageEngine
    from service.workers.image import metrics

    engine = BatchedImageEngine(engine_options(settings))
    metrics.export(engine)
    return loop.run(create(settings, engine).run())


def engine_options(settings: ImageWorkerSettings) -> ImageEngineOptions:
    """How the settings run the engine."""
    return ImageEngineOptions(
        checkpoint=choose_checkpoint(settings.checkpoint, settings.cache_dir),
        backend=settings.image_backend,
        dtype=settings.dtype,
        max_batch=settings.concurrency,
        memory_mib=settings.image_memory_mib,
        compiled=settings.compile,
        warm_up=settings.warm_up,
        compile_cache=settings.cache_dir / "compiled",
        engines=settings.engines or settings.cache_dir / "engines",
        fallback=settings.image_fallback,
    )


def create(settings: ImageWorkerSettings, engine: ImageEngine) -> Worker:
    """An image worker on `engine`."""
    broker = Broker(settings)
    leases = Leases(broker, "image", consumer_name(), settings.lease_s, settings.max_deliveries)
    turns = ImageTurns(engine, leases, broker, settings.progress_interval_s)
    return Worker(settings, broker, leases, turns)

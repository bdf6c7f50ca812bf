"""The denoising loop: one thread that chooses, before every step, the images that take it.

Legend: B images, N rows (2B with guidance: negative half first), C channels, H, W latent grid.

Images join and leave between any two steps. Each has its own trajectory (timesteps, scheduler,
random numbers) and guidance, so the other images of a batch do not change it. The most urgent
images that fit into the largest bucket are evaluated; the others keep their latents and wait.
Images that can't be evaluated together (other size, no guidance, float32) take turns, one step
each.

On a GPU the thread enqueues a step and does not wait for it: it waits for the step before, so that
one step is always queued behind the running one, and images can still join between any two. The
news of a step or a decoding is delivered once the device has done it (`Deliveries`). Within a step
nothing is copied to the host.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.device.deliveries import Deliveries
from model.device.stream import Stream, stream_of
from model.engine.image.backends.base import Backend, pad
from model.engine.image.feature_cache import ImageFeatureCache
from model.engine.image.job import ImageJob, JoinedImages
from model.engine.image.previews import LatentColours
from model.engine.protocol import EngineDied, ImageEnd, ImagePreview, ImageProgress
from model.image_decoder.sampler import guide
from model.image_decoder.schedule import advance
from model.processor import to_image

# Steps that may be queued behind the running one. More would delay those who join and leave.
_STEPS_AHEAD = 1
_FAILURES = (RuntimeError, ValueError, ArithmeticError, MemoryError)
logger = logging.getLogger(__name__)

_STOP_S = 10.0


@dataclass
class ImageStatistics:
    """Gauges of the last step, and counters since the start. Times are seconds of the loop.

    `num_steps` counts evaluations of the U-Net, `num_stages` everything that the loop has done:
    preparing images, evaluating the U-Net, decoding.
    """

    num_waiting: int = 0
    num_running: int = 0
    num_stages: int = 0
    num_steps: int = 0
    num_rows: int = 0
    num_images: int = 0
    num_cancelled: int = 0
    num_late: int = 0
    num_failed: int = 0
    num_retried_in_float32: int = 0
    num_backend_fallbacks: int = 0
    prepare_s: float = 0.0
    denoise_s: float = 0.0
    schedule_s: float = 0.0
    decode_s: float = 0.0
    wait_s: float = 0.0
    batch_sizes: dict[int, int] = field(default_factory=dict)

    def count_step(self, num_images: int, num_rows: int) -> None:
        self.num_steps += 1
        self.num_rows += num_rows
        self.batch_sizes[num_images] = self.batch_sizes.get(num_images, 0) + 1


class DenoisingLoop:
    """Generates all images submitted to it, on one thread."""

    def __init__(
        self,
        backend: Backend,
        memory_bytes: int,
        cache_bytes: int,
        stream: Stream | None = None,
    ) -> None:
        """Take a started backend; `stream` is by default the one of its device."""
        self.statistics = ImageStatistics()
        self._backend = backend
        self.memory_bytes = memory_bytes
        self.cache = ImageFeatureCache(cache_bytes)
        self._stream = stream or stream_of(torch.device(backend.capabilities.device))
        self._deliveries = Deliveries(self._stream)
        self._colours: LatentColours | None = None
        self._lock = threading.Condition()
        self._waiting: list[ImageJob] = []
        self._running: list[ImageJob] = []
        self._joined: dict[tuple[object, ...], JoinedImages] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="denoising", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs and takes images."""
        return self._thread.is_alive() and not self._stopping

    @property
    def busy(self) -> bool:
        """Whether the loop holds images."""
        return bool(self._waiting or self._running)

    def submit(self, job: ImageJob) -> None:
        """Add an image; it begins before the next step if there is room.

        Raises:
            EngineDied: the loop has ended.
        """
        with self._lock:
            if self._stopping:
                raise EngineDied("the image engine has stopped")
            self._waiting.append(job)
            self._lock.notify()

    def cancel(self, job: ImageJob) -> None:
        """Drop an image before the next step."""
        with self._lock:
            job.cancelled = True
            self._lock.notify()

    def stop(self) -> None:
        """Stop before the next step; unfinished images fail. A step that hangs is left behind."""
        with self._lock:
            self._stopping = True
            self._lock.notify()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def image_bytes(self, size: tuple[int, int]) -> int:
        """Memory that an image of a latent size holds."""
        side = self._backend.config.image_decoder.latent_size
        area = max(1.0, size[0] * size[1] / side**2)
        return int(self._backend.capabilities.image_bytes * area)

    def turn(self) -> None:
        """Let images join and leave, then take one step of the most urgent ones of each group."""
        with self._lock:
            self._drop()
            self._admit()
        groups = self._groups()
        for jobs in groups:
            self._step(jobs)
        self._deliver(_STEPS_AHEAD if groups else 0)
        self.statistics.num_running = len(self._running)

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self.turn()
        finally:
            with self._lock:
                self._stopping = True
            for job in (*self._waiting, *self._running):
                job.emit(EngineDied("the image engine has stopped"))

    def _wait_for_work(self) -> bool:
        """Block while there is nothing to do; False once the loop shall stop."""
        with self._lock:
            self._lock.wait_for(lambda: self._stopping or self._waiting or self._running)
            return not self._stopping

    def _drop(self) -> None:
        """Remove cancelled and late images."""
        now = time.monotonic()
        for jobs in (self._waiting, self._running):
            for job in list(jobs):
                late = job.deadline is not None and now > job.deadline
                if job.cancelled or late:
                    jobs.remove(job)
                    self.statistics.num_cancelled += job.cancelled
                    self.statistics.num_late += not job.cancelled
                    job.emit(TimeoutError("the image's deadline has passed"))

    def _admit(self) -> None:
        """Admit the most urgent images while their memory fits; one is always admitted."""
        used = sum(self.image_bytes(job.size) for job in self._running)
        for job in sorted(self._waiting, key=lambda job: job.urgency):
            needed = self.image_bytes(job.size)
            if self._running and used + needed > self.memory_bytes:
                break
            used += needed
            self._waiting.remove(job)
            self._running.append(job)
        self.statistics.num_waiting = len(self._waiting)

    def _groups(self) -> list[list[ImageJob]]:
        """The most urgent images of every group, as many as its largest bucket holds."""
        groups: dict[tuple[object, ...], list[ImageJob]] = {}
        stepping = (job for job in self._running if not job.decoding)
        for job in sorted(stepping, key=lambda job: job.urgency):
            groups.setdefault(job.group, []).append(job)
        for gone in set(self._joined) - set(groups):
            del self._joined[gone]
        return [
            jobs[: self._backend_of(jobs[0]).capabilities.buckets[-1]] for jobs in groups.values()
        ]

    def _backend_of(self, job: ImageJob) -> Backend:
        return self._backend.precise() if job.precise else self._backend

    def _step(self, jobs: list[ImageJob]) -> None:
        """Enqueue one step of a group; an error in it ends these images, not the loop."""
        try:
            self._prepare(jobs)
            self._advance(jobs)
            self._finish([job for job in jobs if job.trajectory.done])
        except _FAILURES as error:
            self._fail(jobs, error)

    def _deliver(self, ahead: int) -> None:
        """Deliver what the device has done; wait until at most `ahead` steps are enqueued."""
        try:
            self._deliveries.deliver(ahead)
        except _FAILURES as error:  # The device failed: whatever was computed on it is lost.
            self._fail([job for job in self._running if job.conditions is not None], error)
        self.statistics.wait_s = self._deliveries.waited_s

    def _fail(self, jobs: Sequence[ImageJob], error: Exception) -> None:
        """End images with an error.

        Raises:
            AcceleratorError: the device has failed; nothing works on it until the process ends.
        """
        if isinstance(error, torch.AcceleratorError):
            raise error
        logger.error("step of %s failed", [job.request_id for job in jobs], exc_info=error)
        self.statistics.num_failed += len(jobs)
        for job in jobs:
            self._end(job, RuntimeError(f"image generation failed: {error}"))

    def _prepare(self, jobs: Sequence[ImageJob]) -> None:
        """Stage one, for images that have not taken a step."""
        started = time.perf_counter()
        for job in jobs:
            if job.conditions is None:
                backend = self._backend_of(job)
                features_11VD = self._features(job, backend)
                job.conditions = backend.prepare(job.image_tokens_1TD, features_11VD)
                job.begin(backend.config.image_decoder, self._stream.device)
                job.emit(ImageProgress(0, job.trajectory.num_steps))
            if job.params.num_previews and self._colours is None:
                self._colours = LatentColours(self._backend, self._stream)
        self.statistics.prepare_s += time.perf_counter() - started
        self.statistics.num_stages += 1

    def _features(self, job: ImageJob, backend: Backend) -> Tensor | None:
        previous = job.previous
        if previous is None:
            return None
        if job.precise:
            return backend.features(previous.image)
        return self.cache.get(previous.digest, lambda: backend.features(previous.image))

    def _advance(self, jobs: list[ImageJob]) -> None:
        """Stage two: evaluate the U-Net, guide, and advance every trajectory by one step."""
        started = time.perf_counter()
        num, bucket, joined = len(jobs), self._bucket(jobs), self._join(jobs)
        latents_BCHW = pad(torch.cat([job.trajectory.latents for job in jobs]), bucket)
        timesteps_B = pad(torch.stack([job.trajectory.timestep for job in jobs]), bucket)
        padded_NCHW = joined.predict(latents_BCHW, timesteps_B).float()
        prediction_NCHW = padded_NCHW.unflatten(0, (-1, bucket))[:, :num].flatten(0, 1)
        evaluated = time.perf_counter()
        guided_BCHW = guide(prediction_NCHW, joined.scale_B, joined.rescale_B)
        clean_BCHW = advance([job.trajectory for job in jobs], guided_BCHW)
        reports = [self._report(job, x) for job, x in zip(jobs, clean_BCHW, strict=True)]
        self._deliveries.add(lambda: [report() for report in reports])
        self.statistics.denoise_s += evaluated - started
        self.statistics.schedule_s += time.perf_counter() - evaluated
        self.statistics.num_stages += 1
        self.statistics.count_step(num, len(prediction_NCHW))

    def _bucket(self, jobs: Sequence[ImageJob]) -> int:
        buckets = self._backend_of(jobs[0]).capabilities.buckets
        return min(bucket for bucket in buckets if bucket >= len(jobs))

    def _join(self, jobs: list[ImageJob]) -> JoinedImages:
        """What the steps of a group share; kept as long as the same images take part."""
        group, joined = jobs[0].group, self._joined.get(jobs[0].group)
        if joined is None or joined.jobs != jobs:
            backend, bucket = self._backend_of(jobs[0]), self._bucket(jobs)
            joined = JoinedImages.of(jobs, backend, bucket, self._stream.device)
            self._joined[group] = joined
        return joined

    def _report(self, job: ImageJob, clean_CHW: Tensor) -> Callable[[], None]:
        """Tells the caller of an image about the step that it has just taken."""
        updates: list[Callable[[], ImageProgress | ImagePreview]] = []
        step, number = job.trajectory.step, job.preview_after(job.trajectory.step)
        if number is not None and self._colours is not None:
            colours = self._colours
            colours_3HW = self._stream.download(colours.of(clean_CHW[None])[0])
            updates.append(lambda: ImagePreview(number, colours.image(colours_3HW)))
        updates.append(lambda: ImageProgress(step, job.trajectory.num_steps))

        def report() -> None:
            if job in self._running:
                for update in updates:
                    job.emit(update())

        return report

    def _finish(self, jobs: list[ImageJob]) -> None:
        """Stage three: enqueue the decoding of images that have taken all their steps."""
        if not jobs:
            return
        started = time.perf_counter()
        backend = self._backend_of(jobs[0])
        latents_BCHW = torch.cat([job.trajectory.latents for job in jobs])
        images_B3SS = self._stream.download(backend.decode(latents_BCHW))
        finite_B = self._stream.download(latents_BCHW.isfinite().flatten(1).all(1))
        for job in jobs:
            job.decoding = True
        self._deliveries.add(lambda: self._complete(jobs, images_B3SS, finite_B))
        self.statistics.decode_s += time.perf_counter() - started
        self.statistics.num_stages += 1

    def _complete(self, jobs: Sequence[ImageJob], images_B3SS: Tensor, finite_B: Tensor) -> None:
        """Hand out images; one that is black or not finite in 16 bits is repeated in float32."""
        reduced = self._backend_of(jobs[0]).capabilities.precision != "float32"
        for job, pixels_3SS, has_finite in zip(jobs, images_B3SS, finite_B.tolist(), strict=True):
            finite = has_finite and bool(pixels_3SS.isfinite().all())
            if job not in self._running:
                continue
            if reduced and not job.precise and (not finite or is_black(pixels_3SS)):
                self._retry(job)
            elif not finite:
                self.statistics.num_failed += 1
                self._end(job, ArithmeticError("the image's numbers are not finite"))
            else:
                self.statistics.num_images += 1
                self._end(job, ImageEnd(to_image(pixels_3SS), job.params.seed))

    def _retry(self, job: ImageJob) -> None:
        """Generate an image again from its seed in float32."""
        logger.warning("image of %s is black or not finite: retry in float32", job.request_id)
        self.statistics.num_retried_in_float32 += 1
        job.precise, job.decoding, job.conditions = True, False, None

    def _end(self, job: ImageJob, update: ImageEnd | Exception) -> None:
        if job in self._running:
            self._running.remove(job)
        job.emit(update)


def is_black(pixels_3SS: Tensor) -> bool:
    """Whether all pixels are black: clamping turns an overflow into that."""
    return bool(pixels_3SS.max() < 1 / 255)

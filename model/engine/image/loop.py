"""The denoising loop: one thread, and before every step the question who takes part in it.

Legend: B images, N rows (2B with guidance: negative half first), C channels, H, W latent grid.

Images join and leave between any two steps. Each has its own timestep, scheduler, guidance and
random numbers, so what else is in the batch does not change it. The most urgent images that fit
into the largest bucket are evaluated; the others keep their latents and wait. Images that can't
be evaluated together (other size, no guidance, float32) take turns, one step each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from model.engine.image.backends.base import Backend, Batch
from model.engine.image.feature_cache import FeatureCache
from model.engine.image.picture import Picture
from model.engine.image.previews import LatentColours
from model.engine.protocol import ImageEnd, ImagePreview, ImageProgress
from model.image_decoder.schedulers import clean_latents, guide, scheduler_step
from model.processor import to_image

logger = logging.getLogger(__name__)


@dataclass
class ImageStatistics:
    """Gauges of the last step, and counters since the start. Times are seconds of the loop."""

    num_waiting: int = 0
    num_running: int = 0
    num_steps: int = 0
    num_rows: int = 0
    num_pictures: int = 0
    num_cancelled: int = 0
    num_late: int = 0
    num_failed: int = 0
    num_retried_in_float32: int = 0
    num_backend_fallbacks: int = 0
    prepare_s: float = 0.0
    denoise_s: float = 0.0
    schedule_s: float = 0.0
    decode_s: float = 0.0
    batch_sizes: dict[int, int] = field(default_factory=dict)


class DenoisingLoop:
    """Draws all images submitted to it, on one thread."""

    def __init__(self, backend: Backend, memory_bytes: int, cache_bytes: int) -> None:
        self.statistics = ImageStatistics()
        self._backend = backend
        self.memory_bytes = memory_bytes
        self.cache = FeatureCache(cache_bytes)
        self._colours: LatentColours | None = None
        self._lock = threading.Condition()
        self._waiting: list[Picture] = []
        self._running: list[Picture] = []
        self._joined: dict[tuple[object, ...], tuple[list[Picture], Batch]] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="denoising", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, picture: Picture) -> None:
        """Take an image; it begins before the next step if there is room."""
        with self._lock:
            if self._stopping:
                raise RuntimeError("the image engine has stopped")
            self._waiting.append(picture)
            self._lock.notify()

    def cancel(self, picture: Picture) -> None:
        """Drop an image before the next step."""
        with self._lock:
            picture.cancelled = True
            self._lock.notify()

    def stop(self) -> None:
        """Stop before the next step; images under way fail."""
        with self._lock:
            self._stopping = True
            self._lock.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def picture_bytes(self, size: tuple[int, int]) -> int:
        """Memory that an image of a latent size holds."""
        side = self._backend.config.image_decoder.latent_size
        area = max(1.0, size[0] * size[1] / side**2)
        return int(self._backend.capabilities.picture_bytes * area)

    def turn(self) -> None:
        """One step of everybody whose turn it is, after letting images join and leave."""
        with self._lock:
            self._drop()
            self._admit()
        for group in self._groups():
            self._step(group)
        self.statistics.num_running = len(self._running)

    def _run(self) -> None:
        while self._wait_for_work():
            self.turn()
        for picture in (*self._waiting, *self._running):
            picture.emit(RuntimeError("the image engine was stopped"))

    def _wait_for_work(self) -> bool:
        """Block while there is nothing to do; False when it is time to stop."""
        with self._lock:
            self._lock.wait_for(lambda: self._stopping or self._waiting or self._running)
            return not self._stopping

    def _drop(self) -> None:
        now = time.monotonic()
        for pictures in (self._waiting, self._running):
            for picture in list(pictures):
                late = picture.deadline is not None and now > picture.deadline
                if picture.cancelled or late:
                    pictures.remove(picture)
                    self.statistics.num_cancelled += picture.cancelled
                    self.statistics.num_late += not picture.cancelled
                    picture.emit(TimeoutError("the picture's deadline has passed"))

    def _admit(self) -> None:
        """Let the most urgent in while their memory fits; one always does."""
        used = sum(self.picture_bytes(picture.size) for picture in self._running)
        for picture in sorted(self._waiting, key=lambda picture: picture.urgency):
            needed = self.picture_bytes(picture.size)
            if self._running and used + needed > self.memory_bytes:
                break
            used += needed
            self._waiting.remove(picture)
            self._running.append(picture)
        self.statistics.num_waiting = len(self._waiting)

    def _groups(self) -> list[list[Picture]]:
        """The most urgent images of every kind, as many as its largest bucket holds."""
        kinds: dict[tuple[object, ...], list[Picture]] = {}
        for picture in sorted(self._running, key=lambda picture: picture.urgency):
            kinds.setdefault(picture.group, []).append(picture)
        for gone in set(self._joined) - set(kinds):
            del self._joined[gone]
        return [pictures[: self._largest(pictures[0])] for pictures in kinds.values()]

    def _largest(self, picture: Picture) -> int:
        return self._backend_of(picture).capabilities.buckets[-1]

    def _backend_of(self, picture: Picture) -> Backend:
        return self._backend.precise() if picture.precise else self._backend

    def _step(self, pictures: list[Picture]) -> None:
        """One step of some images; what goes wrong in it ends these images, not the loop."""
        try:
            self._prepare(pictures)
            self._advance(pictures)
            self._finish([picture for picture in pictures if picture.done])
        except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
            logger.exception("step of %s failed", [picture.request_id for picture in pictures])
            self.statistics.num_failed += len(pictures)
            for picture in pictures:
                self._end(picture, RuntimeError(f"drawing failed: {error}"))

    def _prepare(self, pictures: Sequence[Picture]) -> None:
        """Compute what newcomers need at every step."""
        started = time.perf_counter()
        for picture in pictures:
            if picture.invariants is None:
                backend = self._backend_of(picture)
                decoder = backend.config.image_decoder
                picture.invariants = backend.prepare(
                    picture.image_tokens_1TD, self._features(picture, backend)
                )
                picture.begin(int(decoder.unet["in_channels"]), dict(decoder.scheduler))
        self.statistics.prepare_s += time.perf_counter() - started

    def _features(self, picture: Picture, backend: Backend) -> Tensor | None:
        previous = picture.previous
        if previous is None:
            return None
        if picture.precise:
            return backend.features(previous.image)
        return self.cache.get(previous.digest, lambda: backend.features(previous.image))

    def _advance(self, pictures: list[Picture]) -> None:
        """Evaluate, guide, and let every image's own scheduler go on."""
        started = time.perf_counter()
        first = pictures[0]
        latents_BCHW = torch.cat([picture.latents for picture in pictures])
        timesteps_B = torch.stack([picture.timestep for picture in pictures])
        prediction = (
            self._backend_of(first)
            .predict(latents_BCHW, timesteps_B, self._batch(pictures))
            .to("cpu", torch.float32)
        )
        evaluated = time.perf_counter()
        if first.guided:
            sampling = [picture.sampling for picture in pictures]
            scale_B = torch.tensor([s.guidance_scale for s in sampling])
            rescale_B = torch.tensor([s.guidance_rescale for s in sampling])
            prediction = guide(prediction, scale_B, rescale_B)
        for picture, prediction_1CHW in zip(pictures, torch.split(prediction, 1), strict=True):
            self._go_on(picture, prediction_1CHW)
        self.statistics.denoise_s += evaluated - started
        self.statistics.schedule_s += time.perf_counter() - evaluated
        self._count(pictures)

    def _count(self, pictures: Sequence[Picture]) -> None:
        statistics, num = self.statistics, len(pictures)
        statistics.num_steps += 1
        statistics.num_rows += num * (2 if pictures[0].guided else 1)
        statistics.batch_sizes[num] = statistics.batch_sizes.get(num, 0) + 1

    def _batch(self, pictures: list[Picture]) -> Batch:
        """The images' invariants joined; kept as long as the same ones take part."""
        group = pictures[0].group
        members, batch = self._joined.get(group, ([], None))
        if batch is None or members != pictures:
            backend = self._backend_of(pictures[0])
            bucket = min(b for b in backend.capabilities.buckets if b >= len(pictures))
            invariants = [p.invariants for p in pictures if p.invariants is not None]
            batch = backend.batch(invariants, pictures[0].guided, bucket)
            self._joined[group] = list(pictures), batch
        return batch

    def _go_on(self, picture: Picture, prediction_1CHW: Tensor) -> None:
        """Take an image's step, and report it."""
        timestep, before = picture.timestep, picture.latents
        picture.latents = scheduler_step(
            picture.scheduler, prediction_1CHW, timestep, before, picture.generator
        )
        picture.step += 1
        number = picture.previews_at().get(picture.step)
        if number is not None and not picture.done:
            kind = str(self._backend.config.image_decoder.scheduler.get("prediction_type"))
            clean = clean_latents(picture.scheduler, prediction_1CHW, int(timestep), before, kind)
            picture.emit(ImagePreview(number, self._preview(clean[0])))
        picture.emit(ImageProgress(picture.step, picture.total))

    def _preview(self, latents_CHW: Tensor) -> Image.Image:
        if self._colours is None:
            self._colours = LatentColours(self._backend)
        return self._colours.image(latents_CHW)

    def _finish(self, pictures: list[Picture]) -> None:
        """Decode, and try once more in float32 what did not come out as numbers or is black."""
        if not pictures:
            return
        started = time.perf_counter()
        backend = self._backend_of(pictures[0])
        images = backend.decode(torch.cat([picture.latents for picture in pictures])).cpu()
        self.statistics.decode_s += time.perf_counter() - started
        for picture, pixels_3SS in zip(pictures, images, strict=True):
            finite = bool(pixels_3SS.isfinite().all()) and bool(picture.latents.isfinite().all())
            reduced = backend.capabilities.precision != "float32"
            if reduced and not picture.precise and (not finite or is_black(pixels_3SS)):
                self._retry(picture)
            elif not finite:
                self.statistics.num_failed += 1
                self._end(picture, ArithmeticError("the picture's numbers are not finite"))
            else:
                self.statistics.num_pictures += 1
                self._end(picture, ImageEnd(to_image(pixels_3SS), picture.sampling.seed))

    def _retry(self, picture: Picture) -> None:
        """Draw an image again from its seed in float32."""
        logger.warning("picture of %s is black or not finite: float32", picture.request_id)
        self.statistics.num_retried_in_float32 += 1
        picture.precise, picture.invariants = True, None

    def _end(self, picture: Picture, item: ImageEnd | Exception) -> None:
        if picture in self._running:
            self._running.remove(picture)
        picture.emit(item)


def is_black(pixels_3SS: Tensor) -> bool:
    """Whether nothing but black came out: what an overflow looks like after clamping."""
    return bool(pixels_3SS.max() < 1 / 255)

"""The image engine: an asynchronous interface to one denoising thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import torch

from model.engine.image.backends.base import Backend
from model.engine.image.backends.choice import load_backend
from model.engine.image.job import ImageJob, ImageUpdate
from model.engine.image.loop import DenoisingLoop, ImageStatistics
from model.engine.image.options import ImageEngineOptions
from model.engine.protocol import EngineDied, EngineVitals, ImageEnd, ImagePreview, ImageProgress
from model.image_decoder.schedule import make_scheduler
from model.sampling_params import ImageParams
from model.segments import ImageSegment

MAX_PREVIEWS = 3
# Of a GPU's free memory: for decoding an image, and for steps that are yet to be recorded.
_HEADROOM_BYTES = 1 << 30
_HOST_SHARE = 4
logger = logging.getLogger(__name__)


class BatchedImageEngine:
    """`model.engine.protocol.ImageEngine` with step-level continuous batching."""

    def __init__(self, options: ImageEngineOptions) -> None:
        self.options = options
        self._backend: Backend | None = None
        self._loop: DenoisingLoop | None = None

    @property
    def started(self) -> bool:
        """Whether `loop` and `backend` exist."""
        return self._loop is not None

    @property
    def statistics(self) -> ImageStatistics:
        return self.loop.statistics

    @property
    def loop(self) -> DenoisingLoop:
        """The denoising thread."""
        assert self._loop is not None, "the engine is not started"
        return self._loop

    @property
    def backend(self) -> Backend:
        """The backend that evaluates the networks."""
        assert self._backend is not None, "the engine is not started"
        return self._backend

    async def start(self) -> None:
        """Load the model, compile or load engines, and warm up."""
        backend, reason = await asyncio.to_thread(load_backend, self.options)
        self._backend = backend
        memory = self.options.memory_mib * 2**20 or memory_for_images(backend)
        self._loop = DenoisingLoop(backend, memory, self.options.cache_mib * 2**20)
        self._loop.statistics.num_backend_fallbacks = int(bool(reason))
        self._loop.start()

    async def generate(
        self,
        image_tokens: torch.Tensor,
        previous: ImageSegment | None,
        sampling: ImageParams,
        request_id: str,
        deadline: float | None = None,
    ) -> AsyncIterator[ImageProgress | ImagePreview | ImageEnd]:
        """Yield progress and previews, then exactly one `ImageEnd`.

        Raises:
            ValueError: the engine does not accept the parameters.
            TimeoutError: the deadline passed.
            EngineDied: the denoising thread has ended.
        """
        size = self._check(image_tokens, sampling)
        if deadline is not None and deadline < time.monotonic():
            raise TimeoutError("the image's deadline has passed")
        updates: asyncio.Queue[ImageUpdate] = asyncio.Queue()
        event_loop = asyncio.get_running_loop()

        def emit(update: ImageUpdate) -> None:
            if not event_loop.is_closed():
                event_loop.call_soon_threadsafe(updates.put_nowait, update)

        job = ImageJob(
            request_id,
            image_tokens.float().unsqueeze(0),
            previous,
            sampling,
            size,
            self.backend.config.image_decoder.guidance_of(sampling.guidance_scale),
            deadline,
            emit,
        )
        self.loop.submit(job)
        try:
            while True:
                update = await updates.get()
                if isinstance(update, Exception):
                    raise update
                yield update
                if isinstance(update, ImageEnd):
                    return
        finally:
            self.loop.cancel(job)

    def _check(self, image_tokens: torch.Tensor, params: ImageParams) -> tuple[int, int]:
        """The latent grid of a request.

        Raises:
            ValueError: naming the parameter that does not fit.
        """
        decoder = self.backend.config.image_decoder
        expected = (decoder.perceiver.num_queries, decoder.perceiver.hidden_size)
        if tuple(image_tokens.shape) != expected:
            raise ValueError(f"image_tokens must be {expected}, not {tuple(image_tokens.shape)}")
        if not 1 <= params.num_inference_steps <= self.options.max_steps:
            raise ValueError(f"num_inference_steps must be 1 to {self.options.max_steps}")
        if not 0 <= params.num_previews <= MAX_PREVIEWS:
            raise ValueError(f"num_previews must be 0 to {MAX_PREVIEWS}")
        if not 0 <= params.guidance_rescale <= 1:
            raise ValueError("guidance_rescale must be 0 to 1")
        if not 0 <= decoder.guidance_of(params.guidance_scale) <= 100:
            raise ValueError("guidance_scale must be 0 to 100")
        make_scheduler(params.scheduler, decoder.scheduler, params.num_inference_steps)
        return self._latent_size(params)

    def _latent_size(self, params: ImageParams) -> tuple[int, int]:
        decoder, capabilities = self.backend.config.image_decoder, self.backend.capabilities
        height = params.height or decoder.image_size
        width = params.width or decoder.image_size
        unit = decoder.vae_scale_factor << (len(decoder.unet["block_out_channels"]) - 1)
        if height % unit or width % unit or min(height, width) < unit:
            raise ValueError(f"width and height must be multiples of {unit}")
        if height * width > self.options.max_area * decoder.image_size**2:
            raise ValueError(f"width x height must be at most {decoder.image_size}^2 pixels")
        if decoder.token_grid and {height, width} != {decoder.image_size}:
            raise ValueError(f"width and height of this model are {decoder.image_size}")
        size = height // decoder.vae_scale_factor, width // decoder.vae_scale_factor
        if capabilities.sizes is not None and size not in capabilities.sizes:
            raise ValueError(f"this size is not among the compiled ones: {capabilities.sizes}")
        if self.loop.image_bytes(size) > self.loop.memory_bytes:
            raise ValueError("an image of this size does not fit into the engine's memory")
        return size

    def vitals(self) -> EngineVitals:
        """Whether the denoising thread runs, and what it has done."""
        if self._loop is None:
            return EngineVitals(alive=False, busy=False, num_steps=0)
        return EngineVitals(self._loop.alive, self._loop.busy, self._loop.statistics.num_stages)

    async def ping(self) -> None:
        """Check that the denoising thread runs; while it has no work, nothing can hold it up.

        Raises:
            EngineDied: it has ended.
        """
        if not self.vitals().alive:
            raise EngineDied("the denoising thread has ended")

    async def stop(self) -> None:
        """Stop the engine and free its memory."""
        if self._loop is not None:
            await asyncio.to_thread(self._loop.stop)
        if self._backend is not None:
            self._backend.stop()


def memory_for_images(backend: Backend) -> int:
    """Memory that unfinished images may take on the device that the backend runs on.

    A text worker leaves a GPU's share to this worker (`planned_utilization`), so all of it is used.
    What PyTorch keeps of the warm-up serves the images.
    """
    if backend.capabilities.device.startswith("cuda"):
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        free = torch.cuda.mem_get_info()[0] + kept
        return max(free - _HEADROOM_BYTES, free // _HOST_SHARE)
    return _available_bytes() // _HOST_SHARE


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no line MemAvailable")

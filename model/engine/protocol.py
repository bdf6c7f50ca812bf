"""What an engine takes and yields: the boundary between `model` and its servers.

Both engines are asynchronous and own their batching; callers start as many generations as they
like. Closing the iterator (or cancelling its task) stops the work within one token or one
denoising step and frees what it held. An engine whose processes or threads have ended is started
again only together with the process that embeds it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from PIL import Image

from model.sampling_params import ImageMode, ImageParams, SamplingParams, TokenScore
from model.segments import ImageSegment, Segment


class EngineDied(RuntimeError):
    """The engine has ended or hangs. None of the requests that it held need be at fault."""


@dataclass(frozen=True)
class EngineVitals:
    """Whether an engine can work, and whether it does.

    Attributes:
        alive: its processes and threads run.
        busy: generations are in progress, so `num_steps` must grow.
        num_steps: grows with every step of the engine.
    """

    alive: bool
    busy: bool
    num_steps: int


class Engine(Protocol):
    """What engines of both stages have in common."""

    async def start(self) -> None:
        """Load the model, compile or load what is needed, and warm up."""
        ...

    async def stop(self) -> None:
        """Stop the engine, started or not, and free its memory."""
        ...

    def vitals(self) -> EngineVitals:
        """The state of the engine as this process knows it."""
        ...

    async def ping(self) -> None:
        """Return once the engine has answered; it answers between two steps.

        Raises:
            EngineDied: it has ended.
        """
        ...


@dataclass(frozen=True)
class TextDelta:
    """Newly generated text; `token_ids` are the ids behind it, `scores` theirs if asked for."""

    text: str
    token_ids: tuple[int, ...]
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class TextEnd:
    """The end of a text turn. With reason `image` it has the image tokens, [T, D] float32.

    `anchored`: the image reads the maps of the answer's anchor (`ImageDecoderConfig`), and not of
    the image before it.
    """

    reason: Literal["stop", "length", "image"]
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    image_tokens: torch.Tensor | None = None
    anchored: bool = False


@dataclass(frozen=True)
class TextLimits:
    """What fits into a context, and how the ordinary tokens of the vocabulary are spelled.

    `vocabulary` is empty if tokens may stand for other characters than those they are spelled with.
    """

    max_prompt_tokens: int
    max_images: int
    tokens_per_image: int
    vocabulary: tuple[str, ...] = ()


class TextEngine(Engine, Protocol):
    """Continues an interleaved context with text, up to its end or the next image."""

    def limits(self) -> TextLimits:
        """What fits into a context; known before `start`."""
        ...

    def generate(
        self,
        context: tuple[Segment, ...],
        sampling: SamplingParams,
        request_id: str,
        max_tokens: int = 256,
        images: ImageMode = "allow",
        resume: tuple[int, ...] = (),
        priority: int = 0,
    ) -> AsyncIterator[TextDelta | TextEnd]:
        """Yield deltas, then exactly one `TextEnd`.

        Args:
            context: the interleaved segments to continue.
            sampling: how tokens are sampled.
            request_id: for logs and vLLM.
            max_tokens: the bound of this turn.
            images: whether the turn may end by beginning an image; `force` begins one at once,
                without sampling any text.
            resume: ids of this turn that are streamed already. They count as output (for limits
                and penalties), are not yielded again, and generation continues after them.
            priority: smaller goes first.

        Raises:
            ValueError: the context does not fit the model (length, number of images).
            EngineDied: the engine ended before the turn did.
        """
        ...


@dataclass(frozen=True)
class ImageProgress:
    """Denoising step `step` of `total` is done; step 0 is the preparation before the first."""

    step: int
    total: int


@dataclass(frozen=True)
class ImagePreview:
    """The `number`-th partial image."""

    number: int
    image: Image.Image


@dataclass(frozen=True)
class ImageEnd:
    """The finished image."""

    image: Image.Image
    seed: int


class ImageEngine(Engine, Protocol):
    """Generates images from image tokens, many requests in one batch."""

    def generate(
        self,
        image_tokens: torch.Tensor,
        previous: ImageSegment | None,
        sampling: ImageParams,
        request_id: str,
        deadline: float | None = None,
    ) -> AsyncIterator[ImageProgress | ImagePreview | ImageEnd]:
        """Yield progress and previews, then exactly one `ImageEnd`.

        Args:
            image_tokens: [T, D] float32, from `TextEnd`.
            previous: the earlier image of the context whose features the synchronizer reads.
            sampling: parameters of the image.
            request_id: for logs and traces.
            deadline: time.monotonic() by which the image must be done; earlier goes first.

        Raises:
            ValueError: the parameters are outside what the engine's graphs accept.
            TimeoutError: the deadline passed.
            EngineDied: the engine ended before the image was done.
        """
        ...

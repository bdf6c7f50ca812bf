"""Engines that answer at once and always the same: what a worker does around them is real.

The answer follows from the prompt alone, so that a test can say what every client must have seen:
`expected_answer` does. Words in the prompt make trouble on purpose.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from model.engine.protocol import (
    EngineVitals,
    ImageEnd,
    ImagePreview,
    ImageProgress,
    TextDelta,
    TextEnd,
)
from model.sampling_params import ImageMode, ImageParams, SamplingParams, TokenScore
from model.segments import ImageSegment, Segment, TextSegment, TokenSegment
from service.bench.gateway.echo import EchoEngine

NUM_TURNS_OF_TEXT = 3


@dataclass(frozen=True)
class Speed:
    """How long a token and a denoising step take; where to note what has happened once."""

    token_s: float = 0.004
    step_s: float = 0.004
    notes: str = ""


def word(prompt: str, turn: int, position: int) -> str:
    """The text of one token."""
    digest = hashlib.sha256(f"{prompt}|{turn}|{position}".encode()).hexdigest()
    return f"{digest[:5]} "


def token_id(prompt: str, turn: int, position: int) -> int:
    """The id of one token."""
    digest = hashlib.sha256(f"{prompt}|{turn}|{position}".encode()).digest()
    return int.from_bytes(digest[:3], "big")


def num_tokens(prompt: str, turn: int) -> int:
    """Length of a text turn."""
    return 6 + hashlib.sha256(f"{prompt}/{turn}".encode()).digest()[0] % 10


def score(said: str, num_top: int) -> TokenScore:
    """The log-probability of a token, and of others."""
    return TokenScore(said, -0.5, ((said, -0.5), ("other", -1.5))[:num_top])


def color_of(tokens: torch.Tensor, seed: int) -> tuple[int, int, int]:
    """What a picture shows: a hash of what it was drawn from."""
    digest = hashlib.sha256(tokens.numpy().tobytes() + str(seed).encode()).digest()
    return digest[0], digest[1], digest[2]


def tokens_of(prompt: str, turn: int) -> torch.Tensor:
    """The image tokens at the end of a text turn."""
    generator = torch.Generator().manual_seed(token_id(prompt, turn, 1_000))
    return torch.rand(77, 8, generator=generator)


def expected_answer(prompt: str, seed: int) -> list[str | tuple[int, int, int]]:
    """All parts of the answer: texts, and colors of pictures."""
    parts: list[str | tuple[int, int, int]] = []
    for turn in range(NUM_TURNS_OF_TEXT):
        parts.append("".join(word(prompt, turn, i) for i in range(num_tokens(prompt, turn))))
        if turn < NUM_TURNS_OF_TEXT - 1:
            parts.append(color_of(tokens_of(prompt, turn), seed + turn))
    return parts


def once(notes: str, name: str) -> bool:
    """Whether this is the first time that `name` happens, over all processes."""
    try:
        Path(notes, name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class FakeTextEngine(EchoEngine):
    """Text that follows from the prompt."""

    def __init__(self, speed: Speed) -> None:
        super().__init__()
        self._speed = speed
        self.running = 0
        # What tests change to make the engine die.
        self.state = EngineVitals(alive=True, busy=False, num_steps=0)
        self.error: Exception | None = None
        self.pause = asyncio.Event()
        self.pause.set()
        self.stopping: asyncio.Event | None = None

    async def stop(self) -> None:
        if self.stopping is not None:
            await self.stopping.wait()

    def vitals(self) -> EngineVitals:
        return self.state

    async def generate(
        self,
        context: tuple[Segment, ...],
        sampling: SamplingParams,
        request_id: str,
        max_tokens: int = 256,
        images: ImageMode = "allow",
        resume: tuple[int, ...] = (),
        priority: int = 0,
    ) -> AsyncIterator[TextDelta | TextEnd]:
        prompt = "".join(part.text for part in context if isinstance(part, TextSegment))
        turn = sum(isinstance(part, TokenSegment) for part in context)
        told = [part.token_ids for part in context if isinstance(part, TokenSegment)]
        for number, ids in enumerate(told):
            length = num_tokens(prompt, number)
            assert ids == tuple(token_id(prompt, number, i) for i in range(length)), "wrong context"
        assert resume == tuple(token_id(prompt, turn, i) for i in range(len(resume)))
        self.running += 1
        try:
            total = min(num_tokens(prompt, turn), max_tokens)
            if "endless" in prompt:
                total = 1_000_000
            for position in range(len(resume), total):
                await asyncio.sleep(self._speed.token_s)
                await self.pause.wait()
                if self.error is not None:
                    raise self.error
                self._make_trouble(prompt, request_id, position)
                said = word(prompt, turn, position)
                scores = () if sampling.logprobs is None else (score(said, sampling.logprobs),)
                yield TextDelta(said, (token_id(prompt, turn, position),), scores)
            if images == "allow" and turn < NUM_TURNS_OF_TEXT - 1:
                yield TextEnd("image", 10, 0, total, tokens_of(prompt, turn))
            else:
                cut = total < num_tokens(prompt, turn)
                yield TextEnd("length" if cut else "stop", 10, 0, total)
        finally:
            self.running -= 1

    def _make_trouble(self, prompt: str, request_id: str, position: int) -> None:
        if "poison" in prompt and position == 3:
            raise RuntimeError("this prompt breaks every worker")
        if "too long" in prompt:
            raise ValueError("does not fit")
        name = request_id.partition("/")[0]
        if "memory" in prompt and position == 2 and once(self._speed.notes, f"oom-{name}"):
            raise MemoryError
        if "murder" in prompt and position == 4 and once(self._speed.notes, f"kill-{name}"):
            os.kill(os.getpid(), signal.SIGKILL)


class FakeImageEngine:
    """Pictures of one color, which follows from the image tokens and the seed."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self.running = 0

    async def start(self) -> None:
        """Nothing to load."""

    async def stop(self) -> None:
        """Nothing to free."""

    async def ping(self) -> None:
        """There is no other process."""

    def vitals(self) -> EngineVitals:
        return EngineVitals(alive=True, busy=False, num_steps=0)

    async def generate(
        self,
        image_tokens: torch.Tensor,
        previous: ImageSegment | None,
        sampling: ImageParams,
        request_id: str,
        deadline: float | None = None,
    ) -> AsyncIterator[ImageProgress | ImagePreview | ImageEnd]:
        self.running += 1
        try:
            image = Image.new("RGB", (16, 16), color_of(image_tokens, sampling.seed))
            total = sampling.num_inference_steps
            yield ImageProgress(0, total)
            for step in range(1, total + 1):
                await asyncio.sleep(self._speed.step_s)
                yield ImageProgress(step, total)
                if sampling.num_previews and step == total // 2:
                    yield ImagePreview(1, image)
            yield ImageEnd(image, sampling.seed)
        finally:
            self.running -= 1

"""A text worker whose engine yields timestamps: `python -m service.bench.gateway.echo`.

Each delta is the monotonic clock at the moment it was made. All processes of a machine share that
clock, so the reader of a stream knows how long each delta took to arrive.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

from model.engine.protocol import EngineVitals, TextDelta, TextEnd, TextLimits
from model.sampling_params import ImageMode, SamplingParams
from model.segments import Segment
from service import loop
from service.config import TextWorkerSettings
from service.telemetry import log
from service.workers.text.worker import create

STEP_S = 0.02


class EchoEngine:
    """Yields `max_tokens` deltas per request: the first immediately, then one every `STEP_S`.

    All running requests get their deltas in the same step, as from an engine that batches them.
    """

    def __init__(self) -> None:
        self._step: asyncio.Future[None] | None = None
        self._step_at = time.monotonic()

    def limits(self) -> TextLimits:
        return TextLimits(1_000_000, 1_000, 1)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    def vitals(self) -> EngineVitals:
        return EngineVitals(alive=True, busy=False, num_steps=0)

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
        for number in range(max_tokens):
            yield TextDelta(f"{time.monotonic_ns()} ", (number,))
            await asyncio.shield(self._next_step())
        yield TextEnd("stop", 1, 0, max_tokens)

    def _next_step(self) -> asyncio.Future[None]:
        """The step that all requests wait for. A late step does not delay the later ones."""
        if self._step is None or self._step.done():
            self._step = asyncio.get_running_loop().create_future()
            now = time.monotonic()
            late = now - self._step_at
            self._step_at += STEP_S * (1 + max(0, late // STEP_S))
            delay_s = self._step_at - now
            asyncio.get_running_loop().call_later(delay_s, self._step.set_result, None)
        return self._step


def main() -> int:
    """Run the worker until SIGTERM."""
    settings = TextWorkerSettings()
    log.configure("echo", "WARNING")
    return loop.run(create(settings, EchoEngine()).run())


if __name__ == "__main__":
    sys.exit(main())

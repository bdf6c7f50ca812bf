"""A text worker whose engine says the time: `python -m service.benchmark.echo`.

Each delta is the clock's reading at the moment of its making, which all processes of a machine
share, so that the reader of a stream knows how long each delta was under way.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

from model.engine.protocol import Segment, TextDelta, TextEnd, TextSampling
from service import log
from service.config import TextWorkerSettings
from service.workers.text import create

INTERVAL_S = 0.02


class EchoEngine:
    """Yields `max_tokens` deltas, one every `INTERVAL_S`."""

    async def start(self) -> None:
        """Nothing to load."""

    async def stop(self) -> None:
        """Nothing to free."""

    async def generate(
        self,
        context: tuple[Segment, ...],
        sampling: TextSampling,
        request_id: str,
        resume: tuple[int, ...] = (),
        priority: int = 0,
    ) -> AsyncIterator[TextDelta | TextEnd]:
        """Yield the time, again and again."""
        for number in range(sampling.max_tokens):
            yield TextDelta(f"{time.monotonic_ns()} ", (number,))
            await asyncio.sleep(INTERVAL_S)
        yield TextEnd("stop", 1, 0, sampling.max_tokens)


def main() -> int:
    """Work until SIGTERM."""
    settings = TextWorkerSettings()
    log.configure("echo", "WARNING")
    return asyncio.run(create(settings, EchoEngine()).run())


if __name__ == "__main__":
    sys.exit(main())

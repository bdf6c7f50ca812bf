"""Requests of `mmi bench image`, their arrival times, and what a variant made of them."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch

from model.sampling_params import ImageParams
from model.segments import ImageSegment


@dataclass(frozen=True)
class ImageLoad:
    """Requests and when they arrive. A closed load sends one after the other is served."""

    arrivals_s: tuple[float, ...]
    tokens: torch.Tensor
    previous: ImageSegment
    steps: int
    scheduler: str
    closed: bool = False

    def sampling(self, index: int) -> ImageParams:
        """Parameters of one request."""
        return ImageParams(
            num_inference_steps=self.steps,
            scheduler=self.scheduler,  # type: ignore[arg-type]
            seed=index,
        )

    async def latencies_s(self, serve: Callable[[int], Awaitable[None]]) -> list[float]:
        """Send every request at its time; `serve` serves the request of an index."""
        started = time.perf_counter()

        def now() -> float:
            return time.perf_counter() - started

        async def one(index: int) -> float:
            arrival_s = now() if self.closed else self.arrivals_s[index]
            await asyncio.sleep(arrival_s - now())
            await serve(index)
            return now() - arrival_s

        indices = range(len(self.arrivals_s))
        if self.closed:
            return [await one(index) for index in indices]
        return await asyncio.gather(*map(one, indices))


def poisson(num: int, mean_interval_s: float, seed: int = 0) -> tuple[float, ...]:
    """Arrival times of a Poisson process; the first is 0."""
    source, now, times = random.Random(seed), 0.0, [0.0]
    for _ in range(num - 1):
        now += source.expovariate(1 / mean_interval_s)
        times.append(now)
    return tuple(times)


@dataclass(frozen=True)
class ImageMeasurement:
    """One variant under one load. Processor time stays comparable on a busy machine."""

    variant: str
    concurrency: int
    images_per_s: float
    latency_p50_s: float
    latency_p95_s: float
    cpu_s_per_image: float
    parts_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        variant: str,
        concurrency: int,
        latencies_s: Sequence[float],
        wall_s: float,
        cpu_s: float,
        parts_s: dict[str, float],
    ) -> Self:
        """Throughput over the whole run, and quantiles of the latencies."""
        ranked, num = sorted(latencies_s), len(latencies_s)
        return cls(
            variant,
            concurrency,
            num / wall_s,
            statistics.median(ranked),
            ranked[min(num - 1, int(0.95 * num))],
            cpu_s / num,
            {name: round(value, 3) for name, value in parts_s.items()},
        )

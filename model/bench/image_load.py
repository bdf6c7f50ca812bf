"""Requests for `mmi bench image`, and how the variants serve them."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from model.bench.image_official import published_pictures, save_pipeline
from model.checkpoint import load
from model.engine.image.engine import BatchedImageEngine
from model.engine.protocol import ImageEnd
from model.mm_interleaved import IMAGE
from model.sampling_params import ImageParams
from model.segments import ImageSegment


@dataclass(frozen=True)
class Result:
    """One variant under one load. CPU time is what remains comparable on a busy machine."""

    variant: str
    concurrency: int
    images_per_s: float
    latency_p50_s: float
    latency_p95_s: float
    cpu_s_per_image: float
    parts_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """Requests: when they arrive, and what they want. A closed load sends one after the other."""

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


def poisson(num: int, mean_interval_s: float, seed: int = 0) -> tuple[float, ...]:
    """Arrival times; the first one at once."""
    source, now, times = random.Random(seed), 0.0, [0.0]
    for _ in range(num - 1):
        now += source.expovariate(1 / mean_interval_s)
        times.append(now)
    return tuple(times)


class Baselines:
    """The published algorithm behind a queue."""

    def __init__(self, checkpoint: Path, directory: Path) -> None:
        """Load the weights, and write what every call reads again to a directory."""
        model = load.load_model(checkpoint, IMAGE)
        assert model.image_decoder is not None
        self.decoder, self.directory = model.image_decoder, directory
        save_pipeline(self.decoder, directory)

    def serve(self, load: Load, features: torch.Tensor, largest_batch: int) -> list[float]:
        """Latencies when everybody who waits is served as one batch, up to a size."""
        started, latencies, served = time.perf_counter(), [], 0
        while served < len(load.arrivals_s):
            now = time.perf_counter() - started
            arrivals = [now] * (served + 1) if load.closed else load.arrivals_s
            time.sleep(max(0.0, arrivals[served] - now))
            now = time.perf_counter() - started
            waiting = [i for i, t in enumerate(arrivals) if i >= served and t <= now]
            batch = waiting[:largest_batch]
            published_pictures(
                self.decoder,
                self.directory,
                load.tokens[batch],
                features.expand(len(batch), -1, -1, -1),
                [load.sampling(i) for i in batch],
            )
            done = time.perf_counter() - started
            latencies += [done - arrivals[i] for i in batch]
            served += len(batch)
        return latencies


async def serve_engine(engine: BatchedImageEngine, load: Load) -> list[float]:
    """Latencies of our engine."""
    started = time.perf_counter()

    async def one(index: int) -> float:
        arrival = load.arrivals_s[index]
        if load.closed:
            arrival = time.perf_counter() - started
        await asyncio.sleep(arrival - (time.perf_counter() - started))
        stream = engine.generate(
            load.tokens[index], load.previous, load.sampling(index), f"bench-{index}"
        )
        async for item in stream:
            if isinstance(item, ImageEnd):
                break
        return time.perf_counter() - started - arrival

    indices = range(len(load.arrivals_s))
    if load.closed:
        return [await one(index) for index in indices]
    return await asyncio.gather(*(one(index) for index in indices))


def summarise(
    variant: str,
    concurrency: int,
    latencies: Sequence[float],
    wall_s: float,
    cpu_s: float,
    parts_s: dict[str, float],
) -> Result:
    """Throughput over the whole run, and quantiles of latency."""
    ranked, num = sorted(latencies), len(latencies)
    return Result(
        variant,
        concurrency,
        num / wall_s,
        statistics.median(ranked),
        ranked[min(num - 1, int(0.95 * num))],
        cpu_s / num,
        {name: round(value, 3) for name, value in parts_s.items()},
    )

"""`mmi bench image`: the image stage against the published algorithm, with the same weights.

- `official`: the published algorithm, one request after the other;
- `batch`: the same as whole batches of whoever waits, as with an eager diffusers pipeline;
- `torch`, `onnxruntime`, `tensorrt`: this engine on each backend.

All get the same requests at the same times: a Poisson process that offers our engine about
`--concurrency` pictures at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from model.checkpoint import store
from model.engine import bench_image_flops
from model.engine.bench_image_full_size import full_size_step
from model.engine.bench_image_official import published_pictures
from model.engine.image import BatchedImageEngine, ImageEngineOptions
from model.engine.protocol import ImageEnd, ImageSampling, ImageSegment
from model.mm_interleaved import IMAGE
from model.presets import preset

BASELINES = ("official", "batch")
BACKENDS = ("torch", "onnxruntime", "tensorrt")
_LARGEST_BATCH = 8


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
    """Requests: when they arrive, and what they want."""

    arrivals_s: tuple[float, ...]
    tokens: torch.Tensor
    previous: ImageSegment
    steps: int
    scheduler: str

    def sampling(self, index: int) -> ImageSampling:
        """Parameters of one request."""
        return ImageSampling(
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

    def __init__(self, checkpoint: Path) -> None:
        self.config = store.load_config(checkpoint)
        model = store.load_model(checkpoint, IMAGE)
        assert model.image_decoder is not None
        self.decoder = model.image_decoder
        self.visual_tokenizer = model.visual_tokenizer

    def serve(self, load: Load, features: torch.Tensor, largest_batch: int) -> list[float]:
        """Latencies when everybody who waits is served as one batch, up to a size."""
        started, latencies, served = time.perf_counter(), [], 0
        while served < len(load.arrivals_s):
            time.sleep(max(0.0, load.arrivals_s[served] - (time.perf_counter() - started)))
            now = time.perf_counter() - started
            waiting = [i for i, t in enumerate(load.arrivals_s) if i >= served and t <= now]
            batch = waiting[:largest_batch]
            published_pictures(
                self.decoder,
                load.tokens[batch],
                features.expand(len(batch), -1, -1, -1),
                [load.sampling(i) for i in batch],
            )
            done = time.perf_counter() - started
            latencies += [done - load.arrivals_s[i] for i in batch]
            served += len(batch)
        return latencies


async def serve_engine(engine: BatchedImageEngine, load: Load) -> list[float]:
    """Latencies of our engine."""
    started = time.perf_counter()

    async def one(index: int) -> float:
        await asyncio.sleep(load.arrivals_s[index] - (time.perf_counter() - started))
        stream = engine.generate(
            load.tokens[index], load.previous, load.sampling(index), f"bench-{index}"
        )
        async for item in stream:
            if isinstance(item, ImageEnd):
                break
        return time.perf_counter() - started - load.arrivals_s[index]

    return await asyncio.gather(*(one(i) for i in range(len(load.arrivals_s))))


def summarise(
    variant: str,
    concurrency: int,
    load: Load,
    latencies: Sequence[float],
    cpu_s: float,
    **parts: float,
) -> Result:
    """Throughput over the whole run, and quantiles of latency."""
    ends = [arrival + latency for arrival, latency in zip(load.arrivals_s, latencies, strict=True)]
    ranked = sorted(latencies)
    return Result(
        variant,
        concurrency,
        len(latencies) / max(ends),
        statistics.median(ranked),
        ranked[min(len(ranked) - 1, int(0.95 * len(ranked)))],
        cpu_s / len(latencies),
        {name: round(value, 3) for name, value in parts.items()},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmi bench image`."""
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped one")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--per-client", type=int, default=2, help="requests per concurrent client")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--scheduler", default="ddpm")
    parser.add_argument("--variants", nargs="+", default=["official", "batch", "torch"])
    parser.add_argument("--engines", type=Path, help="cache directory of compiled graphs")
    parser.add_argument(
        "--sd21-step", action="store_true", help="one full-size step, random weights"
    )
    parser.add_argument("--flops", action="store_true", help="count multiplications, then stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    console = Console()
    document: dict[str, object] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "load_average_before": os.getloadavg(),
    }
    if arguments.flops:
        document["gflops"] = _flops(console)
    elif arguments.sd21_step:
        document["sd21_step_s"] = full_size_step(console)
    else:
        results = asyncio.run(_measure(arguments))
        _print(console, results)
        document |= {
            "steps": arguments.steps,
            "scheduler": arguments.scheduler,
            "results": [asdict(result) for result in results],
        }
    document["load_average_after"] = os.getloadavg()
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


async def _measure(arguments: argparse.Namespace) -> list[Result]:
    """All variants under all loads; the first run of an engine sets the pace of the arrivals."""
    checkpoint: Path = arguments.checkpoint or Path("deploy/checkpoints/tiny")
    config = store.load_config(checkpoint).image_decoder.perceiver
    largest = max(arguments.concurrency) * arguments.per_client
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(largest, config.num_queries, config.hidden_size, generator=generator)
    previous = ImageSegment(Image.linear_gradient("L").convert("RGB"), "gradient")
    reference = BatchedImageEngine(ImageEngineOptions(checkpoint, max_batch=_LARGEST_BATCH))
    await reference.start()

    def load(num: int, interval_s: float) -> Load:
        arrivals = poisson(num, interval_s)
        return Load(arrivals, tokens[:num], previous, arguments.steps, arguments.scheduler)

    await serve_engine(reference, load(1, 1.0))
    alone_s = (await serve_engine(reference, load(1, 1.0)))[0]
    loads = {c: load(c * arguments.per_client, alone_s / c) for c in arguments.concurrency}
    results: list[Result] = []
    for variant in arguments.variants:
        serve = await _server(variant, checkpoint, reference, arguments.engines)
        for concurrency, given in loads.items():
            before_s = time.process_time()
            latencies, parts = await serve(given)
            cpu_s = time.process_time() - before_s
            results.append(summarise(variant, concurrency, given, latencies, cpu_s, **parts))
    await reference.stop()
    return results


Serve = Callable[[Load], Awaitable[tuple[list[float], dict[str, float]]]]


async def _server(
    variant: str, checkpoint: Path, reference: BatchedImageEngine, engines: Path | None
) -> Serve:
    """How to serve a load by a variant."""
    if variant in BASELINES:
        baselines = Baselines(checkpoint)
        largest = 1 if variant == "official" else _LARGEST_BATCH

        async def published(load: Load) -> tuple[list[float], dict[str, float]]:
            features = reference.backend.features(load.previous.image)
            return baselines.serve(load, features, largest), {}

        return published
    engine = reference
    if variant != "torch":
        options = ImageEngineOptions(checkpoint, variant, engines=engines, fallback=False)  # type: ignore[arg-type]
        engine = BatchedImageEngine(options)
        await engine.start()

    async def ours(load: Load) -> tuple[list[float], dict[str, float]]:
        names = ("prepare_s", "denoise_s", "schedule_s", "decode_s")
        before = {name: getattr(engine.statistics, name) for name in names}
        latencies = await serve_engine(engine, load)
        return latencies, {n: getattr(engine.statistics, n) - before[n] for n in names}

    return ours


def _print(console: Console, results: Sequence[Result]) -> None:
    table = Table("variant", "concurrent", "images/s", "p50 s", "p95 s", "CPU s/image", "parts")
    for result in results:
        parts = ", ".join(f"{k.removesuffix('_s')} {v:.2f}" for k, v in result.parts_s.items())
        table.add_row(
            result.variant,
            str(result.concurrency),
            f"{result.images_per_s:.3f}",
            f"{result.latency_p50_s:.2f}",
            f"{result.latency_p95_s:.2f}",
            f"{result.cpu_s_per_image:.2f}",
            parts,
        )
    console.print(table)


def _flops(console: Console) -> dict[str, dict[str, float]]:
    """The table of multiplications, for the shipped sizes and the published ones."""
    table = Table("preset", "published step", "our step", "prepare", "decode", "30 steps")
    counted = {}
    for name in ("tiny", "13b"):
        flops = bench_image_flops.count(preset(name))
        counted[name] = asdict(flops)
        ratio = f"{flops.published_picture(30):.0f} -> {flops.our_picture(30):.0f} GFLOP"
        row = (flops.published_step, flops.our_step, flops.our_prepare, flops.decode)
        table.add_row(name, *(f"{value:.2f}" for value in row), ratio)
    console.print(table)
    return counted

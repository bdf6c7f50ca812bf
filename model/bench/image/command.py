"""`mmi bench image`: the image stage against the published algorithm, with the same weights.

Variants:

- `official`: the published algorithm, one request after the other;
- `batch`: the published algorithm, all waiting requests as one batch, as with an eager diffusers
  pipeline;
- `torch`, `torch-compiled`, `onnxruntime`, `tensorrt`: this engine on each backend.

`@15:dpmsolver++` behind a name replaces `--steps` and `--scheduler` for that variant.

All variants get the same requests at the same times. One client sends one after the other. More
are a Poisson process, at the rate of `--concurrency` images in the time that the last variant needs
for one.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import diffusers
import torch
from PIL import Image

from model.bench.image.full_size import step_on_cpu, steps_on_gpu
from model.bench.image.load import ImageLoad, ImageMeasurement, poisson
from model.bench.image.published import PublishedImages
from model.bench.image.step import StepFlops
from model.bench.report import Report, print_table
from model.checkpoint import store
from model.checkpoint.shipped import SHIPPED
from model.config.presets import preset
from model.engine.image.backends.eager import TorchBackend
from model.engine.image.engine import BatchedImageEngine
from model.engine.image.options import ImageEngineOptions
from model.engine.protocol import ImageEnd
from model.segments import ImageSegment

_PUBLISHED = {"official": 1, "batch": 8}  # The largest batch of each variant.
_PARTS = ("prepare_s", "denoise_s", "schedule_s", "decode_s", "wait_s")
_LARGEST_BATCH = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi bench image`."""
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped one")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--per-client", type=int, default=2, help="requests per concurrent client")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--scheduler", default="ddpm")
    parser.add_argument(
        "--variants", nargs="+", default=["official", "batch", "torch", "onnxruntime"]
    )
    parser.add_argument("--engines", type=Path, help="of compiled graphs; default: in --cache-dir")
    parser.add_argument("--cache-dir", type=Path, default=Path(".build"))
    parser.add_argument(
        "--sd21-step", action="store_true", help="steps at the published sizes, random weights"
    )
    parser.add_argument("--flops", action="store_true", help="count multiplications, then stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and write the JSON file if one is named."""
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    report = Report(threads=torch.get_num_threads())
    results: dict[str, object]
    if arguments.flops:
        results = {"gflops": _flops()}
    elif arguments.sd21_step and torch.cuda.is_available():
        results = {"sd21_gpu": steps_on_gpu(arguments.variants)}
    elif arguments.sd21_step:
        results = {"sd21_step_s": step_on_cpu()}
    else:
        rows = asyncio.run(_measure(arguments))
        _print(rows)
        results = {
            "steps": arguments.steps,
            "scheduler": arguments.scheduler,
            "results": [asdict(row) for row in rows],
        }
    report.write(arguments.json, results)
    return 0


async def _measure(arguments: argparse.Namespace) -> list[ImageMeasurement]:
    """All variants under all loads. The last variant's time for one image sets the pace."""
    checkpoint: Path = arguments.checkpoint or SHIPPED
    config = store.load_config(checkpoint).image_decoder.perceiver
    largest = max(arguments.concurrency) * arguments.per_client
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(largest, config.num_queries, config.hidden_size, generator=generator)
    previous = ImageSegment(Image.linear_gradient("L").convert("RGB"), "gradient")

    def load(variant: ImageVariant, num: int, interval_s: float) -> ImageLoad:
        arrivals_s, closed = poisson(num, interval_s or 1.0), not interval_s
        return ImageLoad(
            arrivals_s, tokens[:num], previous, variant.steps, variant.scheduler, closed
        )

    results: list[ImageMeasurement] = []
    engines = arguments.engines or arguments.cache_dir / "engines"
    with tempfile.TemporaryDirectory() as directory:
        servers = ImageServers(checkpoint, engines, Path(directory))
        variants = [ImageVariant.parse(name, arguments) for name in arguments.variants]
        for variant in (*variants, variants[-1]):  # The first call of each is its warm-up.
            (pace_s,), _ = await servers.serve(variant, load(variant, 1, 0.0))
        for concurrency in arguments.concurrency:
            interval_s = 0.0 if concurrency == 1 else pace_s / concurrency
            for variant in variants:
                given = load(variant, concurrency * arguments.per_client, interval_s)
                started, cpu_s = time.perf_counter(), time.process_time()
                latencies_s, parts_s = await servers.serve(variant, given)
                wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
                results.append(
                    ImageMeasurement.of(
                        variant.name, concurrency, latencies_s, wall_s, cpu_s, parts_s
                    )
                )
        await servers.stop()
    return results


@dataclass(frozen=True)
class ImageVariant:
    """A server, and how it generates: `SERVER` or `SERVER@STEPS:SCHEDULER`."""

    name: str
    server: str
    steps: int
    scheduler: str

    @classmethod
    def parse(cls, name: str, arguments: argparse.Namespace) -> Self:
        """A variant from the command line."""
        server, _, settings = name.partition("@")
        steps, _, scheduler = settings.partition(":")
        return cls(name, server, int(steps or arguments.steps), scheduler or arguments.scheduler)


class ImageServers:
    """The published algorithm and our engines, each started when it is first needed."""

    def __init__(self, checkpoint: Path, engines: Path, directory: Path) -> None:
        self._checkpoint, self._engines, self._directory = checkpoint, engines, directory
        self._running: dict[str, BatchedImageEngine] = {}
        self._published: PublishedImages | None = None

    async def serve(
        self, variant: ImageVariant, load: ImageLoad
    ) -> tuple[list[float], dict[str, float]]:
        """Latencies, and the seconds that our engine spent in each of its parts."""
        if variant.server in _PUBLISHED:
            if self._published is None:
                self._published = PublishedImages(self._checkpoint, self._directory)
            engine = await self._engine("torch")
            features = engine.backend.features(load.previous.image)
            return await self._published.serve(load, features, _PUBLISHED[variant.server]), {}
        engine = await self._engine(variant.server)

        async def generate(index: int) -> None:
            stream = engine.generate(
                load.tokens[index], load.previous, load.sampling(index), f"bench-{index}"
            )
            async for item in stream:
                if isinstance(item, ImageEnd):
                    break

        before = {name: getattr(engine.statistics, name) for name in _PARTS}
        latencies_s = await load.latencies_s(generate)
        return latencies_s, {n: getattr(engine.statistics, n) - before[n] for n in _PARTS}

    async def _engine(self, backend: str) -> BatchedImageEngine:
        if backend not in self._running:
            name, _, compiled = backend.partition("-")
            options = ImageEngineOptions(
                self._checkpoint,
                name,  # type: ignore[arg-type]
                max_batch=_LARGEST_BATCH,
                engines=self._engines,
                compiled=bool(compiled),
                warm_up=(1, _LARGEST_BATCH),
                fallback=False,
            )
            engine = BatchedImageEngine(options)
            await engine.start()
            if isinstance(engine.backend, TorchBackend):
                await asyncio.to_thread(engine.backend.finish_compiling)
            self._running[backend] = engine
        return self._running[backend]

    async def stop(self) -> None:
        for engine in self._running.values():
            await engine.stop()


def _print(results: Sequence[ImageMeasurement]) -> None:
    """Ratios are to `official` under the same load; above 1 is better."""
    official = {r.concurrency: r for r in results if r.variant == "official"}

    def base(result: ImageMeasurement) -> ImageMeasurement:
        return official.get(result.concurrency, result)

    print_table(
        {
            "variant": lambda r: r.variant,
            "concurrent": lambda r: r.concurrency,
            "images/s": lambda r: f"{r.images_per_s:.3f}",
            "ratio": lambda r: f"{r.images_per_s / base(r).images_per_s:.2f}",
            "p50 s": lambda r: f"{r.latency_p50_s:.2f}",
            "p95 s": lambda r: f"{r.latency_p95_s:.2f}",
            "p95 ratio": lambda r: f"{r.latency_p95_s / base(r).latency_p95_s:.2f}",
            "CPU s/image": lambda r: f"{r.cpu_s_per_image:.3f}",
            "CPU ratio": lambda r: f"{base(r).cpu_s_per_image / r.cpu_s_per_image:.2f}",
            "parts": lambda r: ", ".join(
                f"{name.removesuffix('_s')} {s:.2f}" for name, s in r.parts_s.items()
            ),
        },
        results,
    )


def _flops() -> dict[str, dict[str, float]]:
    """Count multiplications at the shipped sizes and at the published ones."""
    counted = {name: StepFlops.count(preset(name)) for name in ("tiny", "13b")}
    print_table(
        {
            "preset": lambda row: row[0],
            "published step": lambda row: f"{row[1].published_step:.2f}",
            "our step": lambda row: f"{row[1].our_step:.2f}",
            "prepare": lambda row: f"{row[1].our_prepare:.2f}",
            "decode": lambda row: f"{row[1].decode:.2f}",
            "30 steps, published": lambda row: f"{row[1].published_image(30):.0f} GFLOP",
            "30 steps, ours": lambda row: f"{row[1].our_image(30):.0f} GFLOP",
        },
        counted.items(),
    )
    return {name: asdict(flops) for name, flops in counted.items()}

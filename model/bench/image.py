"""`mmi bench image`: the image stage against the published algorithm, with the same weights.

- `official`: the published algorithm, one request after the other;
- `batch`: the same as whole batches of whoever waits, as with an eager diffusers pipeline;
- `torch`, `torch-compiled`, `onnxruntime`, `tensorrt`: this engine on each backend.

`@15:dpmsolver++` behind a name draws by other steps and another scheduler than `--steps` and
`--scheduler`.

All get the same requests at the same times: one after the other for one client, else a Poisson
process that offers the last variant about `--concurrency` images at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import diffusers
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from model.bench import image_flops
from model.bench.image_full_size import full_size_step
from model.bench.image_gpu import steps_on_gpu
from model.bench.image_load import Baselines, Load, Result, poisson, serve_engine, summarise
from model.checkpoint import store
from model.config.presets import preset
from model.engine.image.engine import BatchedImageEngine
from model.engine.image.options import ImageEngineOptions
from model.segments import ImageSegment

BASELINES = ("official", "batch")
_PARTS = ("prepare_s", "denoise_s", "schedule_s", "decode_s")
_LARGEST_BATCH = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmi bench image`."""
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped one")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--per-client", type=int, default=2, help="requests per concurrent client")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--scheduler", default="ddpm")
    parser.add_argument(
        "--variants", nargs="+", default=["official", "batch", "torch", "onnxruntime"]
    )
    parser.add_argument("--engines", type=Path, help="cache directory of compiled graphs")
    parser.add_argument(
        "--sd21-step", action="store_true", help="steps at the published sizes, random weights"
    )
    parser.add_argument("--flops", action="store_true", help="count multiplications, then stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    console = Console()
    document: dict[str, object] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "load_average_before": os.getloadavg(),
    }
    if arguments.flops:
        document["gflops"] = _flops(console)
    elif arguments.sd21_step:
        if torch.cuda.is_available():
            document["machine"] = torch.cuda.get_device_name()
            document["sd21_gpu"] = steps_on_gpu(console, arguments.variants)
        else:
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
    """All variants under all loads, which are paced by our own engine's time for one image."""
    checkpoint: Path = arguments.checkpoint or Path("deploy/checkpoints/tiny")
    config = store.load_config(checkpoint).image_decoder.perceiver
    largest = max(arguments.concurrency) * arguments.per_client
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(largest, config.num_queries, config.hidden_size, generator=generator)
    previous = ImageSegment(Image.linear_gradient("L").convert("RGB"), "gradient")

    def load(variant: Variant, num: int, interval_s: float) -> Load:
        arrivals, closed = poisson(num, interval_s or 1.0), not interval_s
        return Load(arrivals, tokens[:num], previous, variant.steps, variant.scheduler, closed)

    results: list[Result] = []
    with tempfile.TemporaryDirectory() as directory:
        servers = Servers(checkpoint, arguments.engines, Path(directory))
        variants = [Variant.parse(name, arguments) for name in arguments.variants]
        for variant in (*variants, variants[-1]):  # All start warm; the last one's time is kept.
            pace = await servers.serve(variant, load(variant, 1, 0.0))
        for concurrency in arguments.concurrency:
            interval_s = 0.0 if concurrency == 1 else pace[0][0] / concurrency
            for variant in variants:
                given = load(variant, concurrency * arguments.per_client, interval_s)
                started, cpu_s = time.perf_counter(), time.process_time()
                latencies, parts_s = await servers.serve(variant, given)
                wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
                results.append(
                    summarise(variant.name, concurrency, latencies, wall_s, cpu_s, parts_s)
                )
        await servers.stop()
    return results


@dataclass(frozen=True)
class Variant:
    """What serves, and how it draws: `SERVER` or `SERVER@STEPS:SCHEDULER`."""

    name: str
    server: str
    steps: int
    scheduler: str

    @classmethod
    def parse(cls, name: str, arguments: argparse.Namespace) -> Self:
        """A variant from the command line."""
        server, _, drawing = name.partition("@")
        steps, _, scheduler = drawing.partition(":")
        return cls(
            name,
            server,
            int(steps or arguments.steps),
            scheduler or arguments.scheduler,
        )


class Servers:
    """The published algorithm and our engines, made when they are first needed."""

    def __init__(self, checkpoint: Path, engines: Path | None, directory: Path) -> None:
        self._checkpoint, self._engines, self._directory = checkpoint, engines, directory
        self._running: dict[str, BatchedImageEngine] = {}
        self._baselines: Baselines | None = None

    async def serve(self, variant: Variant, load: Load) -> tuple[list[float], dict[str, float]]:
        """Latencies, and seconds in each part of our engine."""
        if variant.server in BASELINES:
            if self._baselines is None:
                self._baselines = Baselines(self._checkpoint, self._directory)
            engine = await self._engine("torch")
            features = engine.backend.features(load.previous.image)
            largest = 1 if variant.server == "official" else _LARGEST_BATCH
            return self._baselines.serve(load, features, largest), {}
        engine = await self._engine(variant.server)
        before = {name: getattr(engine.statistics, name) for name in _PARTS}
        latencies = await serve_engine(engine, load)
        return latencies, {n: getattr(engine.statistics, n) - before[n] for n in _PARTS}

    async def _engine(self, backend: str) -> BatchedImageEngine:
        if backend not in self._running:
            name, _, compiled = backend.partition("-")
            options = ImageEngineOptions(
                self._checkpoint,
                name,  # type: ignore[arg-type]
                max_batch=_LARGEST_BATCH,
                engines=self._engines,
                compiled=bool(compiled),
                fallback=False,
            )
            engine = BatchedImageEngine(options)
            await engine.start()
            self._running[backend] = engine
        return self._running[backend]

    async def stop(self) -> None:
        """Stop all engines."""
        for engine in self._running.values():
            await engine.stop()


def _print(console: Console, results: Sequence[Result]) -> None:
    """The table; ratios are to the published algorithm under the same load, above 1 is better."""
    table = Table("variant", "concurrent", "images/s", "ratio", "p50 s", "p95 s", "p95 ratio")
    for title in ("CPU s/image", "CPU ratio", "parts"):
        table.add_column(title)
    official = {r.concurrency: r for r in results if r.variant == "official"}
    for result in results:
        parts = ", ".join(f"{k.removesuffix('_s')} {v:.2f}" for k, v in result.parts_s.items())
        base = official.get(result.concurrency, result)
        table.add_row(
            result.variant,
            str(result.concurrency),
            f"{result.images_per_s:.3f}",
            f"{result.images_per_s / base.images_per_s:.2f}",
            f"{result.latency_p50_s:.2f}",
            f"{result.latency_p95_s:.2f}",
            f"{result.latency_p95_s / base.latency_p95_s:.2f}",
            f"{result.cpu_s_per_image:.3f}",
            f"{base.cpu_s_per_image / result.cpu_s_per_image:.2f}",
            parts,
        )
    console.print(table)


def _flops(console: Console) -> dict[str, dict[str, float]]:
    """The table of multiplications, for the shipped sizes and the published ones."""
    table = Table("preset", "published step", "our step", "prepare", "decode", "30 steps")
    counted = {}
    for name in ("tiny", "13b"):
        flops = image_flops.count(preset(name))
        counted[name] = asdict(flops)
        ratio = f"{flops.published_picture(30):.0f} -> {flops.our_picture(30):.0f} GFLOP"
        row = (flops.published_step, flops.our_step, flops.our_prepare, flops.decode)
        table.add_row(name, *(f"{value:.2f}" for value in row), ratio)
    console.print(table)
    return counted

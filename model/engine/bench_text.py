"""`mmi bench text`: the text stage against the official algorithm and against plain Llama.

On one machine, in one run, with the same weights, requests of 3 images each:

- `official`: the official algorithm in plain PyTorch, a Hugging Face style loop over a batch, which
  projects all of the images' features again in every layer and step;
- `ours`: the text engine;
- `stock`: vLLM serving the same Llama without any synchronizer, on prompts of the same length:
  the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # PyTorch is imported when it is needed, not for `--help`.
    from model.engine.bench_text_requests import Workload
    from model.engine.bench_text_result import Result
    from model.engine.text_options import TextEngineOptions

VARIANTS = ("official", "ours", "stock")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmi bench text`."""
    parser.add_argument("--preset", default="bench", help="model sizes (random weights)")
    parser.add_argument("--checkpoint", type=Path, help="measure this checkpoint instead")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="generated tokens per request")
    parser.add_argument("--images", type=int, default=3, help="images per request")
    parser.add_argument("--words", type=int, default=32, help="words of text per request")
    parser.add_argument("--repeat", type=int, default=1, help="keep the best of so many runs")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--kernel", default="auto", choices=("auto", "torch", "cpp", "triton"))
    parser.add_argument(
        "--steps", type=int, metavar="N", help="only time N decode steps, by processor time"
    )
    parser.add_argument("--compile", action="store_true", help="let vLLM compile both models")
    parser.add_argument("--cache-dir", type=Path, default=Path(".build"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them here (.svg, .png)")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from model.engine.bench_text_report import plot, table
    from model.engine.bench_text_requests import Workload

    logging.getLogger("vllm").setLevel(logging.WARNING)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    checkpoint = args.checkpoint or _random_checkpoint(args.preset, args.cache_dir)
    workload = Workload.make(checkpoint, max(args.batch), args.images, args.words, args.tokens)
    if args.steps:
        return _steps(checkpoint, workload, args)
    results: list[Result] = []
    for variant in args.variants:
        results += _measure(variant, checkpoint, workload, args)
    table(results)
    if args.plot:
        plot(results, args.plot)
    if args.json:
        document = {**_machine(args), "results": [result.to_dict() for result in results]}
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers were taken on."""
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "load_average": os.getloadavg(),
        "dtype": args.dtype,
        "kernel": args.kernel,
        "compile": args.compile,
    }


def _random_checkpoint(preset: str, cache_dir: Path) -> Path:
    """The seeded checkpoint of a preset, made once."""
    from model.checkpoint import seeded

    directory: Path = cache_dir / "bench" / preset
    if not (directory / "manifest.json").exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        seeded.create(preset, directory)
    return directory


def _measure(
    variant: str, checkpoint: Path, workload: Workload, args: argparse.Namespace
) -> list[Result]:
    """All batch sizes of one variant."""
    if variant == "official":
        from model.engine.bench_text_official import measure_official

        return measure_official(checkpoint, workload, args.batch, args.dtype)
    from model.engine.bench_text_served import measure_ours, measure_stock

    options = _options(checkpoint, workload, args)
    if variant == "ours":
        return asyncio.run(measure_ours(options, workload, args.batch, args.repeat))
    with tempfile.TemporaryDirectory(prefix="mmi-stock-") as directory:
        return asyncio.run(
            measure_stock(options, Path(directory), workload, args.batch, args.repeat)
        )


def _steps(checkpoint: Path, workload: Workload, args: argparse.Namespace) -> int:
    """Time decode steps alone."""
    from model.engine.bench_text_report import step_table
    from model.engine.bench_text_steps import measure_steps

    served = [variant for variant in args.variants if variant != "official"]
    options = _options(checkpoint, workload, args)
    times = measure_steps(served, options, workload, args.batch, args.steps)
    step_table(times)
    if args.json:
        document = {**_machine(args), "steps": [dataclasses.asdict(row) for row in times]}
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _options(checkpoint: Path, workload: Workload, args: argparse.Namespace) -> TextEngineOptions:
    """The same settings for both served variants."""
    from model.engine.text_options import TextEngineOptions

    return TextEngineOptions(
        checkpoint,
        cache_dir=args.cache_dir,
        dtype=args.dtype,
        kernel=args.kernel,
        compile=args.compile,
        max_num_seqs=max(args.batch),
        max_num_batched_tokens=512 + max(args.batch),
        kv_cache_bytes=workload.cache_bytes(max(args.batch), args.dtype),
    )

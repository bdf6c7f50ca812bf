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
import dataclasses
import json
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # PyTorch is imported when it is needed, not for `--help`.
    from model.bench.text_requests import Workload
    from model.bench.text_result import Result, Run
    from model.engine.text.options import TextEngineOptions

VARIANTS = ("official", "ours", "stock")

_SETTLE_SECONDS = 1.5  # vLLM's workers spin for a second after their last work.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `mmi bench text`."""
    parser.add_argument("--preset", default="bench", help="model sizes (random weights)")
    parser.add_argument("--checkpoint", type=Path, help="measure this checkpoint instead")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="generated tokens per request")
    parser.add_argument("--images", type=int, default=3, help="images per request")
    parser.add_argument("--words", type=int, default=32, help="words of text per request")
    parser.add_argument("--repeat", type=int, default=1, help="keep the best of so many runs")
    parser.add_argument(
        "--threads",
        type=int,
        default=max(1, len(os.sched_getaffinity(0)) - 1),
        help="cores that each variant's model computes on",
    )
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
    from model.bench.text_report import plot, table
    from model.bench.text_requests import Workload

    logging.getLogger("vllm").setLevel(logging.WARNING)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    checkpoint = args.checkpoint or _random_checkpoint(args.preset, args.cache_dir)
    workload = Workload.make(checkpoint, args.images, args.words)
    options = _options(checkpoint, workload, args)
    if args.steps:
        return _steps(options, workload, args)
    results = _measure(options, args)
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
        "threads": args.threads,
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


def _measure(options: TextEngineOptions, args: argparse.Namespace) -> list[Result]:
    """All variants, side by side: each batch on one after the other, and that `repeat` times."""
    from model.bench.text_lane import Job, Lane

    cores = tuple(sorted(os.sched_getaffinity(0))[: args.threads])
    lanes = [Lane(Job(v, options, args.images, args.words, cores)) for v in args.variants]
    runs: dict[tuple[str, int], list[Run]] = {}
    try:
        for lane in lanes:
            lane.ready()
        for repeat in range(args.repeat):
            for batch in args.batch:
                first = _number(repeat, batch)
                for lane in lanes:
                    time.sleep(_SETTLE_SECONDS)
                    run = lane.run(first, batch, args.tokens)
                    runs.setdefault((lane.variant, batch), []).append(run)
    finally:
        for lane in lanes:
            lane.stop()
    return [_best(runs, variant, batch) for batch in args.batch for variant in args.variants]


def _number(repeat: int, batch: int) -> int:
    """First request of a batch: no two batches share a request, all variants get the same."""
    return (repeat * 1000 + batch) * 1000


def _best(runs: Mapping[tuple[str, int], Sequence[Run]], variant: str, batch: int) -> Result:
    """The fastest of a variant's runs, and how many tokens of all agree with the official ones."""
    from model.bench.text_result import Result, same_tokens

    own, official = runs[variant, batch], runs.get(("official", batch))
    best = max((Result.of(variant, run) for run in own), key=lambda r: r.decode_tokens_per_s)
    if variant == "stock" or official is None:
        return best
    shares = [same_tokens(a.token_ids, b.token_ids) for a, b in zip(own, official, strict=True)]
    return dataclasses.replace(best, same_tokens=sum(shares) / len(shares))


def _steps(options: TextEngineOptions, workload: Workload, args: argparse.Namespace) -> int:
    """Time decode steps alone."""
    from model.bench.text_report import step_table
    from model.bench.text_steps import measure_steps

    served = [variant for variant in args.variants if variant != "official"]
    times = measure_steps(served, options, workload, args.batch, args.steps)
    step_table(times)
    if args.json:
        document = {**_machine(args), "steps": [dataclasses.asdict(row) for row in times]}
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _options(checkpoint: Path, workload: Workload, args: argparse.Namespace) -> TextEngineOptions:
    """The same settings for both served variants."""
    from model.engine.text.options import TextEngineOptions

    return TextEngineOptions(
        checkpoint,
        cache_dir=args.cache_dir,
        dtype=args.dtype,
        kernel=args.kernel,
        compile=args.compile,
        max_num_seqs=max(args.batch),
        max_num_batched_tokens=512 + max(args.batch),
        kv_cache_bytes=workload.cache_bytes(max(args.batch), args.tokens, args.dtype),
    )

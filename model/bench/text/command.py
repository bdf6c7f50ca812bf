"""`mmi bench text`: the text stage against the published algorithm and against plain Llama.

On one machine, in one run, with the same weights, requests of 3 images each:

- `official`: the published algorithm in plain PyTorch, a Hugging Face style loop over a batch that
  projects the features of all images again in every layer and step;
- `ours`: the text engine;
- `stock`: stock vLLM serving the same Llama without any synchronizer, on prompts of the same
  length: the upper limit.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.bench.report import Report

if TYPE_CHECKING:  # PyTorch is imported when it is needed, not for `--help`.
    from model.bench.text.result import ServedBatch, TextMeasurement
    from model.bench.text.workload import Workload
    from model.engine.options import TextEngineOptions

VARIANTS = ("official", "ours", "stock")

_SETTLE_SECONDS = 1.5  # vLLM's workers spin for a second after their last work.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi bench text`."""
    parser.add_argument("--preset", default="bench", help="model sizes (random weights)")
    parser.add_argument("--checkpoint", type=Path, help="measure this checkpoint instead")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="generated tokens per request")
    parser.add_argument("--images", type=int, default=3, help="images per request")
    parser.add_argument("--words", type=int, default=32, help="words of text per request")
    parser.add_argument("--repeat", type=int, default=1, help="number of runs; the best counts")
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
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot them here (.svg, .png)")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write the files that are named."""
    from model.bench.text.result import plot, print_results, print_steps
    from model.bench.text.workload import Workload

    logging.getLogger("vllm").setLevel(logging.WARNING)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    checkpoint = args.checkpoint or _random_checkpoint(args.preset, args.cache_dir)
    workload = Workload.make(checkpoint, args.images, args.words)
    options = _options(checkpoint, workload, args)
    report = Report(
        threads=args.threads, dtype=args.dtype, kernel=args.kernel, compile=args.compile
    )
    if args.steps:
        from model.bench.text.served import measure_steps

        served = [variant for variant in args.variants if variant != "official"]
        times = measure_steps(served, options, workload, args.batch, args.steps)
        print_steps(times)
        report.write(args.json, {"steps": [dataclasses.asdict(row) for row in times]})
        return 0
    results = _measure(options, args)
    print_results(results)
    if args.plot:
        plot(results, args.plot)
    report.write(args.json, {"results": [dataclasses.asdict(row) for row in results]})
    return 0


def _random_checkpoint(preset: str, cache_dir: Path) -> Path:
    """The seeded checkpoint of a preset, created on first use."""
    from model.checkpoint import seeded

    directory: Path = cache_dir / "bench" / preset
    if not (directory / "manifest.json").exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        seeded.create(preset, directory)
    return directory


def _measure(options: TextEngineOptions, args: argparse.Namespace) -> list[TextMeasurement]:
    """Every batch on each variant in turn, `repeat` times; all variants are loaded throughout."""
    from model.bench.text.lane import Lane, LaneOptions

    cores = tuple(sorted(os.sched_getaffinity(0))[: args.threads])
    lanes = [Lane(LaneOptions(v, options, args.images, args.words, cores)) for v in args.variants]
    runs: dict[tuple[str, int], list[ServedBatch]] = {}
    try:
        for lane in lanes:
            lane.ready()
        for repeat in range(args.repeat):
            for batch in args.batch:
                first = _number(repeat, batch)
                for lane in lanes:
                    time.sleep(_SETTLE_SECONDS)
                    served = lane.serve(first, batch, args.tokens)
                    runs.setdefault((lane.variant, batch), []).append(served)
    finally:
        for lane in lanes:
            lane.stop()
    return [_best(runs, variant, batch) for batch in args.batch for variant in args.variants]


def _number(repeat: int, batch: int) -> int:
    """Number of a batch's first request. Variants share requests, batches do not."""
    return (repeat * 1000 + batch) * 1000


def _best(
    runs: Mapping[tuple[str, int], Sequence[ServedBatch]], variant: str, batch: int
) -> TextMeasurement:
    """The fastest run of a variant, with the share of published tokens over all its runs."""
    from model.bench.text.result import TextMeasurement, same_tokens

    own, published = runs[variant, batch], runs.get(("official", batch))
    best = max(
        (TextMeasurement.of(variant, run) for run in own), key=lambda r: r.decode_tokens_per_s
    )
    if variant == "stock" or published is None:
        return best
    shares = [same_tokens(a.token_ids, b.token_ids) for a, b in zip(own, published, strict=True)]
    return dataclasses.replace(best, same_tokens=sum(shares) / len(shares))


def _options(checkpoint: Path, workload: Workload, args: argparse.Namespace) -> TextEngineOptions:
    """The same settings for both served variants."""
    from model.engine.options import TextEngineOptions

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

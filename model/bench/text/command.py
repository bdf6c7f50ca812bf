"""`mmi bench text`: the text stage against the published algorithm and against plain Llama.

On one machine, in one run, with the same weights, requests of 3 images each:

- `official`: the published algorithm in plain PyTorch, a Hugging Face style loop over a batch that
  projects the features of all images again in every layer and step;
- `ours`: the text engine;
- `stock`: stock vLLM serving the same Llama without any synchronizer, on prompts of the same
  length: the upper limit.

On CPUs all variants are loaded throughout, and take turns. A GPU holds one at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.bench.report import Report

if TYPE_CHECKING:  # PyTorch is imported when it is needed, not for `--help`.
    from model.bench.text.lane import LaneOptions
    from model.bench.text.result import ServedBatch, TextMeasurement
    from model.bench.text.workload import Workload
    from model.engine.text.options import TextEngineOptions

VARIANTS = ("official", "ours", "stock")

_CPU_STEP_TOKENS, _GPU_STEP_TOKENS = 512, 2048
_GPU_SHARE = 0.9
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
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    parser.add_argument("--kernel", default="auto", choices=("auto", "torch", "cpp", "triton"))
    parser.add_argument(
        "--steps", type=int, metavar="N", help="only time N decode steps, by processor time"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="let vLLM compile both models, with CUDA graphs on a GPU",
    )
    parser.add_argument(
        "--random",
        action="store_true",
        help="let vLLM make the weights on the device: nothing is written, without `official`",
    )
    parser.add_argument(
        "--runner", type=int, choices=(1, 2), help="vLLM's model runner; by default vLLM's choice"
    )
    parser.add_argument("--cache-dir", type=Path, default=Path(".build"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot them here (.svg, .png)")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write the files that are named."""
    from model.bench.text.result import plot, print_results, print_steps
    from model.bench.text.workload import Workload

    logging.getLogger("vllm").setLevel(logging.WARNING)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if args.runner:
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(args.runner - 1)
    if args.random and "official" in args.variants:
        args.variants = [variant for variant in args.variants if variant != "official"]
    make = _sizes_only if args.random else _random_checkpoint
    checkpoint = args.checkpoint or make(args.preset, args.cache_dir)
    workload = Workload.make(checkpoint, args.images, args.words)
    options = _options(checkpoint, workload, args)
    report = Report(
        threads=args.threads,
        dtype=options.dtype,
        kernel=args.kernel,
        compile=args.compile,
        runner=args.runner,
        random=args.random,
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


def _sizes_only(preset_name: str, cache_dir: Path) -> Path:
    """A checkpoint of a preset without weights, created on first use."""
    from model.checkpoint import seeded, store
    from model.config.presets import preset

    directory: Path = cache_dir / "bench" / f"{preset_name}-sizes"
    directory.mkdir(parents=True, exist_ok=True)
    config = preset(preset_name)
    config.save(directory / store.CONFIG)
    if not (directory / store.TOKENIZER_CONFIG).exists():
        store.save_tokenizer(seeded.build_tokenizer(config), directory)
    return directory


def _measure(options: TextEngineOptions, args: argparse.Namespace) -> list[TextMeasurement]:
    """Every batch on each variant, `repeat` times."""
    from model.bench.text.lane import LaneOptions

    cores = tuple(sorted(os.sched_getaffinity(0))[: args.threads])
    jobs = [LaneOptions(v, options, args.images, args.words, cores) for v in args.variants]
    runs: dict[tuple[str, int], list[ServedBatch]] = {}
    for loaded in [[job] for job in jobs] if _on_gpu() else [jobs]:
        _measure_together(loaded, args, runs)
    return [_best(runs, variant, batch) for batch in args.batch for variant in args.variants]


def _measure_together(
    jobs: Sequence[LaneOptions],
    args: argparse.Namespace,
    runs: dict[tuple[str, int], list[ServedBatch]],
) -> None:
    """Load some variants, and let them serve each batch in turn; the results go into `runs`."""
    from model.bench.text.lane import Lane

    lanes = [Lane(job) for job in jobs]
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
    """The same settings for both served variants. On a GPU each has the card to itself."""
    from model.bench.text.served import RANDOM
    from model.engine.dtype import resolve_dtype
    from model.engine.text.options import TextEngineOptions

    batch, gpu = max(args.batch), _on_gpu()
    dtype: Any = resolve_dtype(args.dtype, "cuda" if gpu else "cpu", _on_gpu)
    vllm: dict[str, Any] = {"load_format": RANDOM} if args.random else {}
    if gpu and args.compile:  # Only the graphs that the batches use: each takes time to record.
        vllm["cudagraph_capture_sizes"] = sorted(set(args.batch))
    return TextEngineOptions(
        checkpoint,
        cache_dir=args.cache_dir,
        dtype=dtype,
        kernel=args.kernel,
        compile=args.compile,
        max_num_seqs=batch,
        max_num_batched_tokens=(_GPU_STEP_TOKENS if gpu else _CPU_STEP_TOKENS) + batch,
        kv_cache_bytes=0 if gpu else workload.cache_bytes(batch, args.tokens, dtype),
        gpu_memory_utilization=_GPU_SHARE,
        vllm=vllm,
    )


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()

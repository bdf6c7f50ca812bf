"""A guided step at the published sizes with random weights: on a CPU, and on a GPU."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.bench.image.step import StepFlops, StepInputs
from model.bench.report import print_table
from model.config.presets import preset
from model.engine.image.backends.onnxruntime import OnnxExecutor
from model.export.onnx import export
from model.export.wrappers import sampler_graphs
from model.image_decoder.image_decoder import ImageDecoder
from model.synchronizer.kernels.grid import GridSampling
from model.synchronizer.maps import default_sampling

_BASELINE = "batch"
_CPU_ROUNDS = 2
_GPU_WARM_UP, _GPU_ROUNDS = 3, 10
_PEAK_SIDE = 8192


@torch.no_grad()
def step_on_cpu() -> dict[str, float]:
    """Seconds of one guided step of one image in float32, by variant.

    The best of two rounds: the first one also allocates its memory.
    """
    config, decoder = preset("13b"), _decoder(torch.device("cpu"))
    x = StepInputs.random(config, 1, "cpu")
    seconds = {"official": _best_seconds(lambda: x.published(decoder))}
    decoder.decoder.unet.to(memory_format=torch.channels_last)
    for name, sampling in (
        ("ours", default_sampling(torch.device("cpu"), torch.float32)),
        ("ours_grid_sample", GridSampling()),
    ):
        sampler = decoder.sampler(sampling)
        started = time.perf_counter()
        batch = x.prepare(sampler)
        seconds[f"{name}_prepare"] = time.perf_counter() - started
        seconds[name] = _best_seconds(
            lambda s=sampler, b=batch: s.predict(x.latents_BCHW, x.timesteps_B, b)  # type: ignore[misc]
        )
    with tempfile.TemporaryDirectory() as directory:
        graph = next(g for g in sampler_graphs(sampler, config, (1,)) if g.name == "denoise")
        path = export(graph, Path(directory) / "denoise.onnx")
        executor = OnnxExecutor(path, graph.output_names, torch.get_num_threads())
        executor.bind(graph.inputs)
        seconds["ours_onnxruntime"] = _best_seconds(lambda: executor.run({}))
    print_table({"variant": lambda row: row[0], "s": lambda row: f"{row[1]:.2f}"}, seconds.items())
    return seconds


@dataclass(frozen=True)
class GpuStep:
    """One variant at one batch size.

    Attributes:
        difference: distance from the published algorithm in float32, relative to that one's norm.
    """

    variant: str
    batch: int
    ms: float
    baseline_ms: float
    tflops: float
    share_of_peak: float
    difference: float


@torch.no_grad()
def steps_on_gpu(variants: Collection[str], batches: Sequence[int] = (1, 8)) -> dict[str, float]:
    """Milliseconds of a step of each variant and batch in bfloat16, and TFLOP/s of a product.

    All weights have the channels last; times are medians of whole batches by CUDA events.
    Variants: `batch`, the published algorithm as an eager batch, always measured; `torch`, our
    step, eager; `torch-compiled`, ours by torch.compile, replayed as a CUDA graph.
    """
    device, config = torch.device("cuda"), preset("13b")
    decoder, flops = _decoder(device), StepFlops.count(config)
    peak_tflops = _peak_tflops(device)
    inputs = {batch: StepInputs.random(config, batch, device) for batch in batches}
    exact = {batch: inputs[batch].published(decoder) for batch in batches}
    decoder.to(torch.bfloat16)
    decoder.decoder.unet.to(memory_format=torch.channels_last)
    rows: list[GpuStep] = []
    for batch in batches:
        calls, baseline_ms = _gpu_calls(decoder, inputs[batch].bfloat16()), 0.0
        for variant in (name for name in calls if name in {_BASELINE, *variants}):
            ms = _median_gpu_ms(calls[variant])
            baseline_ms = baseline_ms or ms
            error = calls[variant]().float() - exact[batch]
            difference = float(error.norm() / exact[batch].norm())
            gflops = flops.published_step if variant == _BASELINE else flops.our_step
            tflops = gflops * batch / ms
            share = tflops / peak_tflops
            rows.append(GpuStep(variant, batch, ms, baseline_ms, tflops, share, difference))
    print_table(
        {
            "variant": lambda row: row.variant,
            "images": lambda row: row.batch,
            "ms a step": lambda row: f"{row.ms:.2f}",
            "ratio": lambda row: f"{row.baseline_ms / row.ms:.2f}",
            "TFLOP/s": lambda row: f"{row.tflops:.0f}",
            f"of {peak_tflops:.0f} TFLOP/s": lambda row: f"{row.share_of_peak:.0%}",
            "difference": lambda row: f"{row.difference:.4f}",
        },
        rows,
    )
    numbers = {"peak_tflops": peak_tflops}
    for row in rows:
        key = f"{row.variant}_{row.batch}"
        numbers |= {f"{key}_ms": row.ms, f"{key}_difference": row.difference}
    return numbers


def _decoder(device: torch.device) -> ImageDecoder:
    torch.manual_seed(0)
    with device:
        return ImageDecoder(preset("13b")).to(device).eval().requires_grad_(False)


def _gpu_calls(decoder: ImageDecoder, x: StepInputs) -> dict[str, Callable[[], Tensor]]:
    """A step of every variant, the baseline first."""
    sampler = decoder.sampler(GridSampling())
    batch = x.prepare(sampler)
    compiled = torch.compile(sampler.predict, mode="reduce-overhead", dynamic=False)
    return {
        _BASELINE: lambda: x.published(decoder),
        "torch": lambda: sampler.predict(x.latents_BCHW, x.timesteps_B, batch),
        "torch-compiled": lambda: compiled(x.latents_BCHW, x.timesteps_B, batch),
    }


def _best_seconds(call: Callable[[], object]) -> float:
    def seconds() -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    return min(seconds() for _ in range(_CPU_ROUNDS))


def _median_gpu_ms(call: Callable[[], object]) -> float:
    for _ in range(_GPU_WARM_UP):
        call()
    times: list[float] = []
    for _ in range(_GPU_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def _peak_tflops(device: torch.device) -> float:
    """What a large product of random matrices reaches in bfloat16."""
    a, b = (torch.randn(_PEAK_SIDE, _PEAK_SIDE, device=device).bfloat16() for _ in range(2))
    return 2 * _PEAK_SIDE**3 / _median_gpu_ms(lambda: a @ b) / 1e9

"""A guided step at the published sizes with random weights: on a CPU, and on a GPU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch

from model.bench.image.device_step import BASELINE, DeviceSteps
from model.bench.image.step import StepInputs
from model.bench.report import print_table
from model.config.presets import preset
from model.engine.image.backends.onnxruntime import OnnxExecutor
from model.export.graphs import sampler_graphs
from model.export.onnx import export
from model.image_decoder.image_decoder import ImageDecoder
from model.synchronizer.kernels.grid import GridSampling
from model.synchronizer.maps import default_sampling

_CPU_ROUNDS = 2


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


def steps_on_gpu(variants: Collection[str], batches: Sequence[int] = (1, 8)) -> dict[str, float]:
    """Milliseconds of a step of each variant and batch in bfloat16, and TFLOP/s of a product.

    The baseline is always measured (`device_step.py` says what the variants are).
    """
    steps = DeviceSteps(preset("13b"), torch.device("cuda"), batches)
    names = [name for name in steps.variants() if name in {BASELINE, *variants}]
    rows = [steps.measure(name, batch) for batch in batches for name in names]
    baselines = {row.batch: row.ms for row in rows if row.variant == BASELINE}
    print_table(
        {
            "variant": lambda row: row.variant,
            "images": lambda row: row.batch,
            "ms a step": lambda row: f"{row.ms:.2f}",
            "ratio": lambda row: f"{baselines[row.batch] / row.ms:.2f}",
            "TFLOP/s": lambda row: f"{row.tflops:.0f}",
            f"of {steps.peak_tflops:.0f} TFLOP/s": lambda row: f"{row.share_of_peak:.0%}",
            "difference": lambda row: f"{row.difference:.4f}",
        },
        rows,
    )
    numbers = {"peak_tflops": steps.peak_tflops}
    for row in rows:
        key = f"{row.variant}_{row.batch}"
        numbers |= {f"{key}_ms": row.ms, f"{key}_difference": row.difference}
    return numbers


def _decoder(device: torch.device) -> ImageDecoder:
    torch.manual_seed(0)
    with device:
        return ImageDecoder(preset("13b")).to(device).eval().requires_grad_(False)


def _best_seconds(call: Callable[[], object]) -> float:
    def seconds() -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    return min(seconds() for _ in range(_CPU_ROUNDS))

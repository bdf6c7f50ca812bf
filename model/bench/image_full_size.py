"""One step at the published sizes, which a CPU can just do."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from model.bench.image_step import StepInputs
from model.config.presets import preset
from model.engine.image.backends.onnxruntime import OnnxExecutor
from model.export.onnx import export
from model.export.wrappers import sampler_graphs
from model.image_decoder.image_decoder import ImageDecoder
from model.synchronizer.map_sampling import GridSampling, default_sampling

_ROUNDS = 2


@torch.no_grad()
def full_size_step(console: Console) -> dict[str, float]:
    """One guided step of an image at the published sizes, random weights, float32.

    The best of two rounds: the first one also pays for getting its memory.
    """
    config = preset("13b")
    torch.manual_seed(0)
    decoder = ImageDecoder(config).eval().requires_grad_(False)
    x = StepInputs.random(config, 1, "cpu")
    seconds: dict[str, float] = {}

    def measure(name: str, call: Callable[[], object]) -> None:
        seconds[name] = min(_seconds(call) for _ in range(_ROUNDS))
        console.print(f"{name:24} {seconds[name]:8.2f} s")

    measure("official", lambda: x.published(decoder))
    decoder.decoder.unet.to(memory_format=torch.channels_last)
    for name, sampling in (
        ("ours", default_sampling(torch.device("cpu"), torch.float32)),
        ("ours_grid_sample", GridSampling()),
    ):
        sampler = decoder.sampler(sampling)
        started = time.perf_counter()
        batch = x.prepare(sampler)
        seconds[f"{name}_prepare"] = time.perf_counter() - started
        measure(
            name,
            lambda s=sampler, b=batch: s.predict(x.latents_BCHW, x.timesteps_B, b),  # type: ignore[misc]
        )
    with tempfile.TemporaryDirectory() as directory:
        graph = next(g for g in sampler_graphs(sampler, config, (1,)) if g.name == "denoise")
        path = export(graph, Path(directory) / "denoise.onnx")
        executor = OnnxExecutor(path, graph.output_names, torch.get_num_threads())
        executor.bind(graph.inputs)
        measure("ours_onnxruntime", lambda: executor.run({}))
    return seconds


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started

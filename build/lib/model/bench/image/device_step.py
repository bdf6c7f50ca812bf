"""A guided step at some sizes with random weights, on one device: by variant and batch.

Variants:

- `batch`: the published algorithm as an eager batch, the baseline;
- `torch`: our step, eager;
- `torch-graph`: our step, recorded as a CUDA graph;
- `torch-compiled`: our step, compiled block by block and recorded.

All weights are in bfloat16 with the channels last; times are medians. On a CPU, where this is only
rehearsed, they are in float32, which every CPU multiplies fast.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from model.bench.image.step import StepFlops, StepInputs
from model.config.schema import MMInterleavedConfig
from model.device.graph import graphs_of
from model.engine.image.steps.captured import CapturedStep, Step
from model.engine.image.steps.compiled import compile_blocks, many_shapes
from model.image_decoder.image_decoder import ImageDecoder
from model.synchronizer.kernels.grid import GridOperator

BASELINE = "batch"
VARIANTS = (BASELINE, "torch", "torch-graph", "torch-compiled")
# Calls that are not timed, and those that are.
_ROUNDS = {"cuda": (3, 10), "cpu": (1, 2)}
_PEAK_SIDE = {"cuda": 8192, "cpu": 512}
_KERNELS = 10


@dataclass(frozen=True)
class DecoderStepTime:
    """One variant at one batch size.

    Attributes:
        first_s: seconds of the first call, which records or compiles.
        difference: distance from the published algorithm in float32, relative to that one's norm.
    """

    variant: str
    batch: int
    ms: float
    first_s: float
    tflops: float
    share_of_peak: float
    difference: float

    @property
    def steps_per_s(self) -> float:
        """Steps of a batch in a second."""
        return 1e3 / self.ms


class DeviceSteps:
    """Random weights of some sizes on a device, and inputs of several batch sizes."""

    @torch.no_grad()
    def __init__(
        self, config: MMInterleavedConfig, device: torch.device, batches: Sequence[int]
    ) -> None:
        """Make the weights on the device, and compute the published steps in float32."""
        self.device, self.flops = device, StepFlops.count(config)
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        torch.manual_seed(0)
        with device:
            self.decoder = ImageDecoder(config).to(device).eval().requires_grad_(False)
        full = {batch: StepInputs.random(config, batch, device) for batch in batches}
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            self._exact = {batch: x.published(self.decoder) for batch, x in full.items()}
        self.inputs = {batch: x.to(self.dtype) for batch, x in full.items()}
        self.decoder.to(self.dtype)
        self.decoder.decoder.unet.to(memory_format=torch.channels_last)
        self.sampler = self.decoder.sampler(GridOperator())
        self.peak_tflops = self._peak_tflops()

    def variants(self) -> list[str]:
        """Those that this device has."""
        graphs = graphs_of(self.device)
        return [name for name in VARIANTS if graphs is not None or name != "torch-graph"]

    @torch.no_grad()
    def measure(self, variant: str, batch: int) -> DecoderStepTime:
        """Time a variant, and compare it with the published algorithm."""
        call = self._call(variant, batch)
        started = time.perf_counter()
        with many_shapes():
            difference = self._difference(call(), batch)
        first_s = time.perf_counter() - started
        ms = self.median_ms(call)
        published = variant == BASELINE
        gflops = self.flops.published_step if published else self.flops.our_step
        tflops = gflops * batch / ms
        share = tflops / self.peak_tflops
        return DecoderStepTime(variant, batch, ms, first_s, tflops, share, difference)

    def _call(self, variant: str, batch: int) -> Callable[[], Tensor]:
        x = self.inputs[batch]
        if variant == BASELINE:
            return lambda: x.published(self.decoder)
        conditions, step = x.prepare(self.sampler), self._step(variant)
        return lambda: step(x.latents_BCHW, x.timesteps_B, conditions)

    def _step(self, variant: str) -> Step:
        compiled = variant == "torch-compiled"
        step = compile_blocks(self.sampler).predict if compiled else self.sampler.predict
        graphs = graphs_of(self.device)
        return step if variant == "torch" or graphs is None else CapturedStep(step, graphs)

    def _difference(self, prediction: Tensor, batch: int) -> float:
        exact = self._exact[batch]
        return float((prediction.float() - exact).norm() / exact.norm())

    @torch.no_grad()
    def follows_its_inputs(self, variant: str, batch: int) -> float:
        """Distance from the eager step after latents, timesteps and conditions have changed."""
        x, step = self.inputs[batch], self._step(variant)
        conditions = x.prepare(self.sampler)
        step(x.latents_BCHW, x.timesteps_B, conditions)
        changed = (x.latents_BCHW.flip(-1), x.timesteps_B - 100, x.prepare(self.sampler))
        expected = self.sampler.predict(*changed).float()
        return float((step(*changed).float() - expected).norm() / expected.norm())

    @torch.no_grad()
    def decode_ms(self, batch: int) -> float:
        """Time of the autoencoder for a batch, in float32."""
        latents = self.inputs[batch].latents_BCHW
        self.decoder.decoder.vae.float()
        return self.median_ms(lambda: self.sampler.decode(latents))

    @torch.no_grad()
    def kernels(self, variant: str, batch: int) -> list[dict[str, object]]:
        """The kernels that take the most time in a step."""
        call = self._call(variant, batch)
        call()
        on_gpu = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as p:
            call()
            self._synchronize()
        column = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        rows = sorted(p.key_averages(), key=lambda row: -getattr(row, column))
        total = sum(getattr(row, column) for row in rows) or 1
        return [
            {
                "kernel": row.key[:90],
                "calls": row.count,
                "us": round(getattr(row, column)),
                "share": round(getattr(row, column) / total, 3),
            }
            for row in rows[:_KERNELS]
        ]

    def median_ms(self, call: Callable[[], object]) -> float:
        """Median time of a call, by CUDA events on a GPU."""
        warm_up, rounds = _ROUNDS[self.device.type]
        for _ in range(warm_up):
            call()
        return statistics.median(self._once_ms(call) for _ in range(rounds))

    def _once_ms(self, call: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            started = time.perf_counter()
            call()
            return (time.perf_counter() - started) * 1e3
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _peak_tflops(self) -> float:
        """What a large product of random matrices reaches."""
        side = _PEAK_SIDE[self.device.type]
        a, b = (torch.randn(side, side, device=self.device).to(self.dtype) for _ in range(2))
        return 2 * side**3 / self.median_ms(lambda: a @ b) / 1e9

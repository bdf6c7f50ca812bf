"""A guided step at the published sizes on a GPU, and its share of what the GPU can multiply.

Random weights in bfloat16, channels last for all; medians of whole batches by CUDA events:

- `batch`: the published algorithm as an eager batch;
- `torch`: this engine's step, eager;
- `torch-compiled`: the same by torch.compile, replayed as a CUDA graph.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from model.bench import image_flops
from model.bench.image_step import StepInputs
from model.config.presets import preset
from model.config.schema import MMInterleavedConfig
from model.image_decoder.image_decoder import ImageDecoder
from model.synchronizer.map_sampling import GridSampling

_WARM_UP, _ROUNDS = 3, 10
_PEAK_SIDE = 8192
_BASELINE = "batch"


@torch.no_grad()
def steps_on_gpu(
    console: Console, variants: Collection[str], batches: Sequence[int] = (1, 8)
) -> dict[str, float]:
    """Milliseconds of one step of each variant and batch, and TFLOP/s of a matrix product.

    `*_difference` is a variant's distance from the published algorithm in float32, relative to
    that one's norm.
    """
    device, config = torch.device("cuda"), preset("13b")
    torch.manual_seed(0)
    with device:
        decoder = ImageDecoder(config).to(device).eval().requires_grad_(False)
    numbers = {"peak_tflops": _peak_tflops(device)}
    console.print(f"matrix product: {numbers['peak_tflops']:.0f} TFLOP/s in bfloat16")
    flops = image_flops.count(config)
    table = Table("variant", "pictures", "ms a step", "ratio", "TFLOP/s", "of peak", "difference")
    inputs = {batch: StepInputs.random(config, batch, device) for batch in batches}
    exact = {batch: inputs[batch].published(decoder) for batch in batches}
    decoder.to(torch.bfloat16)
    decoder.decoder.unet.to(memory_format=torch.channels_last)
    for batch in batches:
        calls = _calls(decoder, config, inputs[batch].reduced())
        for variant in (name for name in calls if name in {_BASELINE, *variants}):
            ms = _median_ms(calls[variant])
            error = calls[variant]().float() - exact[batch]
            difference = float(error.norm() / exact[batch].norm())
            key = f"{variant}_{batch}"
            numbers |= {f"{key}_ms": ms, f"{key}_difference": difference}
            gflops = flops.published_step if variant == _BASELINE else flops.our_step
            tflops = gflops * batch / ms
            table.add_row(
                variant,
                str(batch),
                f"{ms:.2f}",
                f"{numbers[f'{_BASELINE}_{batch}_ms'] / ms:.2f}",
                f"{tflops:.0f}",
                f"{tflops / numbers['peak_tflops']:.0%}",
                f"{difference:.4f}",
            )
    console.print(table)
    return numbers


def _calls(
    decoder: ImageDecoder, config: MMInterleavedConfig, x: StepInputs
) -> dict[str, Callable[[], Tensor]]:
    """A step of every variant, the baseline's first."""
    sampler = decoder.sampler(GridSampling())
    batch = x.prepare(sampler)
    compiled = torch.compile(sampler.predict, mode="reduce-overhead", dynamic=False)
    return {
        _BASELINE: lambda: x.published(decoder),
        "torch": lambda: sampler.predict(x.latents_BCHW, x.timesteps_B, batch),
        "torch-compiled": lambda: compiled(x.latents_BCHW, x.timesteps_B, batch),
    }


def _median_ms(call: Callable[[], object]) -> float:
    for _ in range(_WARM_UP):
        call()
    times: list[float] = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def _peak_tflops(device: torch.device) -> float:
    """What a large product of random matrices in bfloat16 reaches."""
    a, b = (torch.randn(_PEAK_SIDE, _PEAK_SIDE, device=device).bfloat16() for _ in range(2))
    return 2 * _PEAK_SIDE**3 / _median_ms(lambda: a @ b) / 1e9

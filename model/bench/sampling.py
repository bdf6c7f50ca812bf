"""`mmi bench sampling`: the inner loop of the text synchronizer, each kernel against the reference.

As in a decode step, every token belongs to another request. Each sees `--images` images.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.bench.report import Report, print_table

if TYPE_CHECKING:  # PyTorch is imported when it is needed, not for `--help`.
    import torch

    from model.synchronizer.geometry import Geometry, Sight

    Step = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Sight]

_BLOCK = 16
_WARM_UP, _ROUNDS = 3, 20


@dataclass(frozen=True)
class KernelResult:
    """One kernel at one size.

    Attributes:
        speedup: over the first kernel.
        difference: largest, from the reference in float32.
    """

    dtype: str
    tokens: int
    kernel: str
    ms: float
    speedup: float
    difference: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mmi bench sampling`."""
    parser.add_argument("--preset", default="13b", help="model sizes")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--images", type=int, default=3, help="images that each token sees")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--kernel", nargs="+", help="default: torch, and what the device has")
    parser.add_argument("--cache-dir", type=Path, default=Path(".build"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write the JSON file if one is named."""
    import torch

    from model.config.presets import preset
    from model.synchronizer.geometry import Geometry

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    geometry = Geometry.of_text(preset(args.preset))
    kernels = args.kernel or ["torch", "triton" if device.type == "cuda" else "cpp"]
    report = Report(device=str(device))
    rows: list[KernelResult] = []
    for name in args.dtype:
        for num_tokens in args.tokens:
            step = _step(geometry, num_tokens, args.images, getattr(torch, name), device)
            measured = [_measure(kernel, geometry, step, args.cache_dir) for kernel in kernels]
            first_ms = measured[0][0]
            for kernel, (ms, difference) in zip(kernels, measured, strict=True):
                rows.append(KernelResult(name, num_tokens, kernel, ms, first_ms / ms, difference))
    print_table(
        {
            "type": lambda row: row.dtype,
            "tokens": lambda row: row.tokens,
            "kernel": lambda row: row.kernel,
            "ms": lambda row: f"{row.ms:.3f}",
            "speedup": lambda row: f"{row.speedup:.1f}",
            "largest difference": lambda row: f"{row.difference:.1e}",
        },
        rows,
    )
    report.write(args.json, {"results": [asdict(row) for row in rows]})
    return 0


def _measure(kernel: str, geometry: Geometry, step: Step, cache_dir: Path) -> tuple[float, float]:
    """Milliseconds of a kernel, and its largest difference from the reference in float32."""
    from model.bench.timing import median_ms
    from model.synchronizer.kernels.choice import choose_kernel
    from model.synchronizer.kernels.gather import sample

    query_TX, relative_RX, cache_NW, sight = step
    sampler = choose_kernel(kernel, geometry, cache_NW.device, cache_NW.dtype, cache_dir)
    exact_THC = sample(query_TX, relative_RX, cache_NW.float(), sight, geometry)
    difference = float((sampler(*step).float() - exact_THC).abs().max())
    time_ms = median_ms(lambda: sampler(*step), cache_NW.device, warm_up=_WARM_UP, rounds=_ROUNDS)
    return time_ms, difference


def _step(
    geometry: Geometry, num_tokens: int, num_images: int, dtype: torch.dtype, device: torch.device
) -> Step:
    """Queries, relative positions, a cache with blocks in random order, and what tokens see."""
    import torch

    from model.synchronizer.geometry import Sight

    torch.manual_seed(0)
    num_blocks = -(-num_images * (geometry.image_tokens + 1) // _BLOCK)
    numbers = geometry.num_predicted
    start_I = torch.arange(geometry.max_images + 1) * (geometry.image_tokens + 1)
    sight = Sight(
        request_T=torch.arange(num_tokens, device=device),
        base_T=torch.zeros(num_tokens, dtype=torch.long, device=device),
        count_T=torch.full((num_tokens,), num_images, device=device),
        image_start_RI=start_I.repeat(num_tokens, 1).to(device),
        block_table_RW=torch.randperm(num_tokens * num_blocks, device=device).view(num_tokens, -1),
        block_size=_BLOCK,
        reference_P2=torch.full((1, 2), 0.5, device=device),
    )
    query_TX = torch.randn(num_tokens, numbers, device=device)
    relative_RX = torch.randn(geometry.num_relative, numbers, device=device)
    num_slots = num_tokens * num_blocks * _BLOCK
    cache_NW = torch.randn(num_slots, geometry.token_width, device=device).to(dtype)
    return query_TX, relative_RX, cache_NW, sight

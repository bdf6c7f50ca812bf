"""How long a call takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def median_ms(
    call: Callable[[], object], device: torch.device, *, warm_up: int, rounds: int
) -> float:
    """Median time of a call after some to warm up, with the work that it starts on the GPU."""
    times = []
    for _ in range(warm_up + rounds):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[warm_up:])

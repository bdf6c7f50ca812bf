"""One row of `mmi bench text`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Result:
    """Numbers of one variant at one batch size. Times in milliseconds.

    `decode_tokens_per_s` counts from the moment at which every request has its first token; it is
    the decoding speed of a full batch. `tokens_per_s` counts everything from the first request on.
    """

    variant: str
    batch: int
    tokens_per_s: float
    decode_tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float
    peak_memory_mib: float
    second_turn_ttft_ms: float | None = None

    @classmethod
    def of(
        cls, variant: str, start: float, arrivals: Sequence[Sequence[float]], **more: Any
    ) -> Result:
        """Summarise when each token of each request arrived, in seconds."""
        first = np.array([times[0] - start for times in arrivals]) * 1e3
        gaps = np.concatenate([np.diff(times) for times in arrivals]) * 1e3
        everybody, end = max(times[0] for times in arrivals), max(t[-1] for t in arrivals)
        decoded = sum(t > everybody for times in arrivals for t in times)
        return cls(
            variant=variant,
            batch=len(arrivals),
            tokens_per_s=sum(map(len, arrivals)) / (end - start),
            decode_tokens_per_s=decoded / (end - everybody),
            ttft_p50_ms=float(np.percentile(first, 50)),
            ttft_p99_ms=float(np.percentile(first, 99)),
            tpot_p50_ms=float(np.percentile(gaps, 50)),
            tpot_p99_ms=float(np.percentile(gaps, 99)),
            peak_memory_mib=peak_memory_mib(),
            **more,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return dataclasses.asdict(self)


def peak_memory_mib() -> float:
    """Highest resident memory of this process and its descendants, summed."""
    children: dict[int, list[int]] = {}
    peaks: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(
                line.split(":", 1) for line in status.read_text().splitlines() if ":" in line
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
        process = int(status.parent.name)
        children.setdefault(int(fields["PPid"]), []).append(process)
        peaks[process] = int(fields.get("VmHWM", "0 kB").split()[0])
    total, pending = 0, [os.getpid()]
    while pending:
        process = pending.pop()
        total += peaks.get(process, 0)
        pending += children.get(process, [])
    return total / 1024

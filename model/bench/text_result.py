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
class Run:
    """One batch as it was served; times in seconds.

    Attributes:
        start: when the requests were sent.
        arrivals: when each token of each request arrived.
        token_ids: which they were.
        decode_cpu: processor time spent since the last request got its first token.
        peak_memory_mib: highest resident memory so far of the processes that serve.
        second_turn_ttft: time to the first token of a second turn; batches of one only.
    """

    start: float
    arrivals: list[list[float]]
    token_ids: list[list[int]]
    decode_cpu: float
    peak_memory_mib: float
    second_turn_ttft: float | None = None


@dataclass(frozen=True)
class Result:
    """Numbers of one variant at one batch size. Times in milliseconds.

    `decode_tokens_per_s` counts from the moment at which every request has its first token; it is
    the decoding speed of a full batch. `tokens_per_s` counts everything from the first request on.
    `decode_cpu_ms` is processor time per decoded token, which other load on the machine disturbs
    much less than it does the clock. `same_tokens` is the share of tokens that equal the official
    algorithm's, up to each request's first difference.
    """

    variant: str
    batch: int
    tokens_per_s: float
    decode_tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float
    decode_cpu_ms: float
    peak_memory_mib: float
    second_turn_ttft_ms: float | None = None
    same_tokens: float | None = None

    @classmethod
    def of(cls, variant: str, run: Run) -> Result:
        """Summarise a batch."""
        start, arrivals, second = run.start, run.arrivals, run.second_turn_ttft
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
            decode_cpu_ms=run.decode_cpu * 1e3 / decoded,
            peak_memory_mib=run.peak_memory_mib,
            second_turn_ttft_ms=None if second is None else second * 1e3,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return dataclasses.asdict(self)


def same_tokens(ours: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """Share of tokens before the first difference of each sequence; 1 if nothing differs."""
    same = sum(
        next((at for at, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x))
        for x, y in zip(ours, other, strict=True)
    )
    return same / sum(map(len, ours))


def peak_memory_mib() -> float:
    """Highest resident memory of this process and its descendants, summed.

    Pages that they share, libraries above all, count in each of them.
    """
    fields = (_status(process).get("VmHWM", "0 kB") for process in process_tree())
    return sum(int(field.split()[0]) for field in fields) / 1024


def cpu_seconds() -> float:
    """Processor time of this process and its running descendants."""
    ticks = 0
    for process in process_tree():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return ticks / os.sysconf("SC_CLK_TCK")


def process_tree() -> list[int]:
    """This process and its descendants."""
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        process = int(directory.name)
        children.setdefault(int(_status(process).get("PPid", 0)), []).append(process)
    tree = [os.getpid()]
    for process in tree:
        tree += children.get(process, [])
    return tree


def _status(process: int) -> dict[str, str]:
    """What the kernel says about a process; nothing if it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

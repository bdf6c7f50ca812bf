"""Results of `mmi bench text`: one batch as it was served, its summary, and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.bench.report import print_table


@dataclass(frozen=True)
class ServedBatch:
    """One batch as it was served; times in seconds.

    Attributes:
        start: when the requests were sent.
        arrivals: when each token of each request arrived.
        token_ids: the tokens of each request.
        decode_cpu: processor time since every request had its first token.
        peak_memory_mib: highest resident memory so far of the serving processes.
        second_turn_ttft: time to the first token of a second turn; batches of one only.
    """

    start: float
    arrivals: list[list[float]]
    token_ids: list[list[int]]
    decode_cpu: float
    peak_memory_mib: float
    second_turn_ttft: float | None = None


@dataclass(frozen=True)
class TextMeasurement:
    """One variant at one batch size. Times in milliseconds.

    Attributes:
        tokens_per_s: over the whole run, from the first request on.
        decode_tokens_per_s: from the moment at which every request has its first token: the
            decoding speed of a full batch.
        decode_cpu_ms: processor time of a decoded token. Other load on the machine disturbs it
            much less than the clock.
        same_tokens: share of tokens that equal those of the published algorithm, up to the first
            difference of each request.
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
    def of(cls, variant: str, served: ServedBatch) -> TextMeasurement:
        """Summarise a batch."""
        start, arrivals, second = served.start, served.arrivals, served.second_turn_ttft
        first = np.array([times[0] - start for times in arrivals]) * 1e3
        gaps = np.concatenate([np.diff(times) for times in arrivals]) * 1e3
        all_started, end = max(times[0] for times in arrivals), max(t[-1] for t in arrivals)
        decoded = sum(t > all_started for times in arrivals for t in times)
        return cls(
            variant=variant,
            batch=len(arrivals),
            tokens_per_s=sum(map(len, arrivals)) / (end - start),
            decode_tokens_per_s=decoded / (end - all_started),
            ttft_p50_ms=float(np.percentile(first, 50)),
            ttft_p99_ms=float(np.percentile(first, 99)),
            tpot_p50_ms=float(np.percentile(gaps, 50)),
            tpot_p99_ms=float(np.percentile(gaps, 99)),
            decode_cpu_ms=served.decode_cpu * 1e3 / decoded,
            peak_memory_mib=served.peak_memory_mib,
            second_turn_ttft_ms=None if second is None else second * 1e3,
        )


@dataclass(frozen=True)
class StepTime:
    """Decode steps of a full batch; milliseconds."""

    variant: str
    batch: int
    cpu_median_ms: float
    cpu_min_ms: float
    wall_median_ms: float


def same_tokens(ours: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """Share of tokens before the first difference of each sequence; 1 if nothing differs."""
    same = sum(
        next((at for at, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x))
        for x, y in zip(ours, other, strict=True)
    )
    return same / sum(map(len, ours))


def print_results(results: Sequence[TextMeasurement]) -> None:
    """Print one row per variant and batch size, with the ratios to both baselines."""

    def second_turn(row: TextMeasurement) -> str:
        ms = row.second_turn_ttft_ms
        return "" if ms is None else f"{ms:.0f} ms ({ms / row.ttft_p50_ms:.0%})"

    print_table(
        {
            "variant": lambda row: row.variant,
            "batch": lambda row: row.batch,
            "tokens/s": lambda row: f"{row.tokens_per_s:.1f}",
            "decode tokens/s": lambda row: f"{row.decode_tokens_per_s:.1f}",
            "CPU ms a token": lambda row: f"{row.decode_cpu_ms:.2f}",
            "of stock": lambda row: _ratio(row, results, "stock"),
            "of official": lambda row: _ratio(row, results, "official"),
            "TTFT p50/p99 ms": lambda row: f"{row.ttft_p50_ms:.0f} / {row.ttft_p99_ms:.0f}",
            "TPOT p50/p99 ms": lambda row: f"{row.tpot_p50_ms:.1f} / {row.tpot_p99_ms:.1f}",
            "second turn TTFT": second_turn,
            "same tokens": lambda r: "" if r.same_tokens is None else f"{r.same_tokens:.1%}",
            "peak MiB": lambda row: f"{row.peak_memory_mib:.0f}",
        },
        results,
    )


def _ratio(row: TextMeasurement, results: Sequence[TextMeasurement], variant: str) -> str:
    """Decoding speed over that of another variant: by wall time (by processor time)."""
    same = [other for other in results if other.variant == variant and other.batch == row.batch]
    if not same:
        return ""
    wall = row.decode_tokens_per_s / same[0].decode_tokens_per_s
    return f"{wall:.2f} ({same[0].decode_cpu_ms / row.decode_cpu_ms:.2f})"


def print_steps(times: Sequence[StepTime]) -> None:
    """Print decode steps, and the time of stock vLLM's step over each."""
    stock = {row.batch: row.cpu_median_ms for row in times if row.variant == "stock"}

    def ratio(row: StepTime) -> str:
        return f"{stock[row.batch] / row.cpu_median_ms:.2f}" if row.batch in stock else ""

    print_table(
        {
            "variant": lambda row: row.variant,
            "batch": lambda row: row.batch,
            "CPU ms median": lambda row: f"{row.cpu_median_ms:.1f}",
            "CPU ms least": lambda row: f"{row.cpu_min_ms:.1f}",
            "wall ms": lambda row: f"{row.wall_median_ms:.1f}",
            "stock/this": ratio,
        },
        times,
    )


def plot(results: Sequence[TextMeasurement], path: Path) -> None:
    """Decoding speed over batch size, one line per variant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for variant in dict.fromkeys(row.variant for row in results):
        rows = [row for row in results if row.variant == variant]
        batches, speeds = [r.batch for r in rows], [r.decode_tokens_per_s for r in rows]
        axes.plot(batches, speeds, marker="o", label=variant)
    axes.set(xlabel="concurrent requests", ylabel="decoded tokens/s", xscale="log", yscale="log")
    axes.set_xticks([row.batch for row in results], [str(row.batch) for row in results])
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)

"""The numbers of `mmi bench text` as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from model.bench.text_result import Result
from model.bench.text_steps import StepTime


def table(results: Sequence[Result]) -> None:
    """Print one row per variant and batch size, with the ratios that matter."""
    shown = Table(title="Text stage")
    for heading in (
        "variant",
        "batch",
        "tokens/s",
        "decode tokens/s",
        "CPU ms a token",
        "of stock",
        "of official",
        "TTFT p50/p99 ms",
        "TPOT p50/p99 ms",
        "second turn TTFT",
        "same tokens",
        "peak MiB",
    ):
        shown.add_column(heading, justify="left" if heading == "variant" else "right")
    for row in results:
        second = row.second_turn_ttft_ms
        shown.add_row(
            row.variant,
            str(row.batch),
            f"{row.tokens_per_s:.1f}",
            f"{row.decode_tokens_per_s:.1f}",
            f"{row.decode_cpu_ms:.2f}",
            _ratio(row, results, "stock"),
            _ratio(row, results, "official"),
            f"{row.ttft_p50_ms:.0f} / {row.ttft_p99_ms:.0f}",
            f"{row.tpot_p50_ms:.1f} / {row.tpot_p99_ms:.1f}",
            "" if second is None else f"{second:.0f} ms ({second / row.ttft_p50_ms:.0%})",
            "" if row.same_tokens is None else f"{row.same_tokens:.1%}",
            f"{row.peak_memory_mib:.0f}",
        )
    Console(width=190).print(shown)


def _ratio(row: Result, results: Sequence[Result], variant: str) -> str:
    """Decoding speed relative to another variant at that batch size: by the clock (by the CPU)."""
    same = [other for other in results if other.variant == variant and other.batch == row.batch]
    if not same:
        return ""
    clock = row.decode_tokens_per_s / same[0].decode_tokens_per_s
    return f"{clock:.2f} ({same[0].decode_cpu_ms / row.decode_cpu_ms:.2f})"


def step_table(times: Sequence[StepTime]) -> None:
    """Print decode steps, and the share of a step that is not stock vLLM's."""
    shown = Table(title="Decode steps")
    for heading in ("variant", "batch", "CPU ms median", "CPU ms least", "wall ms", "stock/this"):
        shown.add_column(heading, justify="left" if heading == "variant" else "right")
    stock = {row.batch: row.cpu_median_ms for row in times if row.variant == "stock"}
    for row in times:
        ratio = f"{stock[row.batch] / row.cpu_median_ms:.2f}" if row.batch in stock else ""
        numbers = (row.cpu_median_ms, row.cpu_min_ms, row.wall_median_ms)
        shown.add_row(row.variant, str(row.batch), *(f"{n:.1f}" for n in numbers), ratio)
    Console().print(shown)


def plot(results: Sequence[Result], path: Path) -> None:
    """Decoding speed over batch size, one line per variant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for variant in dict.fromkeys(row.variant for row in results):
        rows = [row for row in results if row.variant == variant]
        axes.plot(
            [row.batch for row in rows],
            [row.decode_tokens_per_s for row in rows],
            marker="o",
            label=variant,
        )
    axes.set(xlabel="requests at once", ylabel="decoded tokens/s", xscale="log", yscale="log")
    axes.set_xticks([row.batch for row in results], [str(row.batch) for row in results])
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)

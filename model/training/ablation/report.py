"""Intervals and tables of the ablation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

_BOOTSTRAPS = 2000
Scores = Mapping[str, Sequence[float]]
Summary = dict[str, dict[str, float]]


def summarise(runs: Sequence[Scores]) -> Summary:
    """Means over the runs of one variant, with 95 % bootstrap intervals.

    A bootstrap draws seeds with replacement, then examples of each drawn seed.
    """
    by_name: dict[str, list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = defaultdict(list)
    for run in runs:
        for name, values in run.items():
            by_name[name].append(np.array(values))
    generator = np.random.default_rng(0)
    summary: Summary = {}
    for name, arrays in by_name.items():
        means = [
            np.mean(
                [
                    generator.choice(arrays[i], len(arrays[i])).mean()
                    for i in generator.integers(len(arrays), size=len(arrays))
                ]
            )
            for _ in range(_BOOTSTRAPS)
        ]
        low, high = np.quantile(means, (0.025, 0.975))
        summary[name] = {
            "mean": round(float(np.mean([array.mean() for array in arrays])), 4),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
            "seeds": len(arrays),
            "examples": sum(map(len, arrays)),
        }
    return summary


def collect(rows: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    """Values by the names of their scores."""
    values: dict[str, list[float]] = defaultdict(list)
    for name, value in rows:
        values[name].append(value)
    return dict(values)


def as_markdown(table: Mapping[str, Summary]) -> str:
    """A row for every score, a column for every variant."""
    names = list(dict.fromkeys(name for summary in table.values() for name in summary))
    lines = [
        "| synchronizer in | " + " | ".join(table) + " |",
        "|---" * (len(table) + 1) + "|",
    ]
    for name in names:
        cells = [_cell(summary.get(name)) for summary in table.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, float] | None) -> str:
    if row is None:
        return "-"
    return f"{row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})"

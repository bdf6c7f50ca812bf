"""Means of scores with their intervals, for people and for files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

_BOOTSTRAPS = 500
Report = dict[str, dict[str, float]]


def summarise(values: Mapping[str, Sequence[float]]) -> Report:
    """Mean, number and bootstrapped 95 % interval of every score."""
    generator = np.random.default_rng(0)
    report: Report = {}
    for name, numbers in values.items():
        array = np.array(numbers)
        means = generator.choice(array, (_BOOTSTRAPS, len(array))).mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        report[name] = {
            "mean": round(float(array.mean()), 4),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
            "number": len(array),
        }
    return report


def as_table(report: Report) -> Table:
    """The report for people."""
    table = Table("score", "mean", "95 % interval", "number")
    for name, row in report.items():
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(name, f"{row['mean']:.3f}", interval, str(int(row["number"])))
    return table

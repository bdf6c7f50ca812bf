"""The curves of a run, as a table that any tool reads."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


class Curves:
    """A CSV file with a row for every logged step: `step`, the losses, rate, norm, seconds.

    A run that goes on after a kill repeats the steps since its last state. Their old rows are
    dropped, so that every step stands there once, and the seconds go on from the row before.
    """

    def __init__(self, path: Path, step: int) -> None:
        """Open the curves of a run that stands at `step`."""
        self.path = path
        rows = _rows(path) if path.is_file() else []
        kept = [row for row in rows[1:] if int(row[0]) <= step]
        self.seconds = float(kept[-1][-1]) if kept else 0.0
        if not kept:
            path.unlink(missing_ok=True)
            return
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0], *kept])
        partial.replace(path)

    def append(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Add a row; `seconds` since this process began."""
        is_new = not self.path.is_file()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", *metrics, "seconds"])
            values = (*metrics.values(), self.seconds + seconds)
            writer.writerow([step, *(f"{value:.6g}" for value in values)])


def _rows(path: Path) -> list[list[str]]:
    """The header and all rows but one that a kill has cut off."""
    text = path.read_text()
    return list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))

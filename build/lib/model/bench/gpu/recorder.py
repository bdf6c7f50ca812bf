"""Results of a phase: a JSON line each, written as soon as it is known."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Recorder:
    """Where a phase writes, and how it shall run.

    Attributes:
        phase: its name.
        path: the file of all results.
        device: of the machine, as results name it.
        rehearsal: run the same code on the CPU at small sizes.
        checkpoint: a shipped model, for what needs a trained one.
        cache_dir: for what is compiled or started on the way.
    """

    phase: str
    path: Path
    device: str
    rehearsal: bool
    checkpoint: Path
    cache_dir: Path
    started: float = field(default_factory=time.perf_counter)

    def note(self, what: str, **values: object) -> None:
        """Append a result, with the seconds since the phase began."""
        seconds = round(time.perf_counter() - self.started, 1)
        row = {"phase": self.phase, "what": what, **values, "at_s": seconds}
        self.write(row | {"device": self.device, "rehearsal": self.rehearsal})

    def rows(self) -> list[Row]:
        """What this phase has noted on this machine, in earlier runs too."""
        mine = (self.phase, self.device)
        return [row for row in read(self.path) if (row["phase"], row["device"]) == mine]

    def write(self, row: Row) -> None:
        """Append a line to the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read(path: Path) -> Iterator[Row]:
    """The results of a file; a line that a kill has cut off is skipped."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue

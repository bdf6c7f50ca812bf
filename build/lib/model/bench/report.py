"""What every benchmark prints and writes: a table with one row a result, and a JSON document."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

T = TypeVar("T")

_WIDTH = 190  # Wide tables stay readable when the output is a file.


def print_table(columns: Mapping[str, Callable[[T], object]], rows: Iterable[T]) -> None:
    """Print one row a result.

    Args:
        columns: from each heading to the function that gives a row's cell.
        rows: the results.
    """
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(cell(row)) for cell in columns.values()))
    Console(width=_WIDTH).print(table)


class Report:
    """The JSON document of a run: the machine, its load before and after, and the results."""

    def __init__(self, **settings: object) -> None:
        self._document: dict[str, Any] = {
            "machine": machine_name(),
            "load_average_before": os.getloadavg(),
            **settings,
        }

    def write(self, path: Path | None, results: Mapping[str, object]) -> None:
        """Write everything to `path`; nothing without a path."""
        if path is None:
            return
        self._document |= {**results, "load_average_after": os.getloadavg()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._document, indent=2) + "\n")


def machine_name() -> str:
    """Processor, number of cores, and the GPU if there is one."""
    import torch  # Late: `--help` needs no PyTorch.

    name = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name

"""Processor time and memory of processes, as the kernel counts them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def cpu_seconds(pids: Iterable[int] | None = None) -> float:
    """Processor time of these running processes; by default this one and its descendants."""
    ticks = 0
    for pid in process_tree() if pids is None else pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Resident memory of a process; 0 if it has ended."""
    return _mib(pid, "VmRSS")


def peak_memory_mib() -> float:
    """Highest resident memory of this process and its descendants, summed.

    Pages that they share, mostly libraries, count once for each of them.
    """
    return sum(_mib(pid, "VmHWM") for pid in process_tree())


def process_tree(root: int | None = None) -> list[int]:
    """A process, by default this one, and its descendants."""
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        pid = int(directory.name)
        children.setdefault(int(_status(pid).get("PPid", 0)), []).append(pid)
    tree = [os.getpid() if root is None else root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def _mib(pid: int, field: str) -> float:
    return int(_status(pid).get(field, "0 kB").split()[0]) / 1024


def _status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status; none if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

"""Which checkpoint a worker serves."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

SHIPPED = Path(__file__).resolve().parent.parent / "deploy" / "checkpoints" / "tiny"
_MAKE_SEEDED = """
import pathlib, sys
from model.checkpoint import seeded
seeded.create(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


def find_checkpoint(given: Path | None, cache_dir: Path) -> Path:
    """The checkpoint given, else the shipped one, else a seeded one made once in `cache_dir`."""
    if given is not None:
        return given
    if (SHIPPED / "config.json").is_file():
        return SHIPPED
    return seeded_checkpoint(cache_dir)


def seeded_checkpoint(cache_dir: Path) -> Path:
    """A random checkpoint of the preset `tiny`, made at the first call; others wait for it."""
    directory = cache_dir / "checkpoints" / "tiny-seeded"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "config.json").is_file():
            # In a process of its own: the caller may be one that is not to import torch.
            command = [sys.executable, "-c", _MAKE_SEEDED, "tiny", str(directory)]
            subprocess.run(command, check=True)
    return directory

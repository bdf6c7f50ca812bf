"""The checkpoint that a worker serves when none is named."""

from __future__ import annotations

import fcntl
from pathlib import Path

from service.config import WorkerSettings

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "checkpoints" / "tiny"


def find_checkpoint(settings: WorkerSettings) -> Path:
    """The one named, else the shipped one, else a seeded one, made once under the cache."""
    if settings.checkpoint is not None:
        return settings.checkpoint
    if (SHIPPED / "config.json").is_file():
        return SHIPPED
    directory = settings.cache_dir / "checkpoints" / "tiny-seeded"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "config.json").is_file():
            from model.checkpoint import seeded

            seeded.create("tiny", directory)
    return directory

"""Chooses the checkpoint to serve."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

_CHECKPOINTS = Path(__file__).resolve().parents[2] / "deploy" / "checkpoints"
SHIPPED = _CHECKPOINTS / "tiny"
CHAT = _CHECKPOINTS / "smol"
_MAKE_SEEDED = """
import pathlib, sys
from model.checkpoint import seeded
seeded.create(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


def choose_checkpoint(given: Path | None, cache_dir: Path) -> Path:
    """For a whole system on one machine.

    The checkpoint given, else the chat model where the package of its language model is installed,
    else the checkpoint that a worker would find.
    """
    if given is None and (CHAT / "base.json").is_file():
        module = json.loads((CHAT / "base.json").read_text())["module"]
        if importlib.util.find_spec(module) is not None:
            return CHAT
    return find_checkpoint(given, cache_dir)


def find_checkpoint(given: Path | None, cache_dir: Path) -> Path:
    """The checkpoint of a single worker: the one given, else the shipped one that needs no package.

    It does not depend on what is installed, since the workers of a system may run from different
    container images. If none is shipped, a seeded one is made once in `cache_dir`.
    """
    if given is not None:
        return given
    if (SHIPPED / "config.json").is_file():
        return SHIPPED
    return seeded_checkpoint(cache_dir)


def seeded_checkpoint(cache_dir: Path) -> Path:
    """A random checkpoint of the preset `tiny`, made by the first process that asks for it."""
    directory = cache_dir / "checkpoints" / "tiny-seeded"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "config.json").is_file():
            # In a process of its own: the caller may be one that is not to import torch.
            command = [sys.executable, "-c", _MAKE_SEEDED, "tiny", str(directory)]
            subprocess.run(command, check=True)
    return directory

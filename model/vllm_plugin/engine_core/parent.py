"""A process of vLLM ends with the one that started it."""

from __future__ import annotations

import functools
import multiprocessing
import os
from multiprocessing.process import BaseProcess
from threading import Thread


def end_with_parent() -> None:
    """End this process once its parent has ended, however that came about.

    vLLM's engine outlives a parent that was killed, and holds the memory of its GPU, so that the
    worker could not start again. A process that `multiprocessing` did not start goes on.
    """
    _watch(os.getpid())


@functools.cache
def _watch(_process: int) -> None:
    """Once for each process: a forked one has the cache of its parent, but not the thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)

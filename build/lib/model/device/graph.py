"""Recording the kernels of a call once, to enqueue them again at the cost of one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

# Calls before the recording: libraries allocate workspaces and load kernels at the first ones.
_WARM_UPS = 2


class CapturedGraph(Protocol):
    """A recorded call. It reads and writes the memory that it used while it was recorded."""

    def replay(self) -> None:
        """Enqueue the kernels."""
        ...


class Graphs(Protocol):
    """Records calls of one thread."""

    def capture(self, call: Callable[[], Tensor]) -> tuple[CapturedGraph, Tensor]:
        """The recorded call, and the output that every replay overwrites.

        Raises:
            RuntimeError: the call can't be recorded, such as one that waits for the device.
        """
        ...


class CudaGraphs:
    """CUDA graphs that share their temporary memory, since only one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, call: Callable[[], Tensor]) -> tuple[CapturedGraph, Tensor]:
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                call()
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # The mode lets other threads allocate meanwhile: one may be compiling.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = call()
        return graph, output


def graphs_of(device: torch.device) -> Graphs | None:
    """What records calls on a device; None where launches cost too little to save them."""
    return CudaGraphs() if device.type == "cuda" else None

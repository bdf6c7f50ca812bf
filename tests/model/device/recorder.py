"""A stand-in for CUDA graphs on CPU tensors.

A recorded call is made again at every replay, with the very tensors that it used at first, and its
output is written over the first one's memory. So a step whose inputs are not brought into the
recorded memory gives the results of its old inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class FakeGraph:
    call: Callable[[], Tensor]
    output: Tensor
    num_replays: int = 0

    def replay(self) -> None:
        self.num_replays += 1
        with torch.no_grad():
            self.output.copy_(self.call())


class FakeGraphs:
    """Records; refuses with `error` if one is given."""

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.recorded: list[FakeGraph] = []

    def capture(self, call: Callable[[], Tensor]) -> tuple[FakeGraph, Tensor]:
        if self.error:
            raise RuntimeError(self.error)
        with torch.no_grad():
            output = torch.zeros_like(call())  # Recording does not execute.
        self.recorded.append(FakeGraph(call, output))
        return self.recorded[-1], output

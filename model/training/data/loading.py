"""Batches made ahead of the steps that use them, by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_AHEAD = 4  # Batches that each worker prepares.
_ENDLESS = 1_000_000_000

TensorBatch = Mapping[str, Tensor]


class Batches(Protocol):
    """Batches of tensors on the CPU, each a function of the number of its step."""

    def __getitem__(self, step: int) -> TensorBatch:
        """The batch of a step."""
        ...


class Loader:
    """Batches of consecutive steps.

    With `workers` these processes make them ahead. Processes of a distributed run ask for every
    n-th step; the loader takes the distance of the first two.
    """

    def __init__(self, batches: Batches, workers: int = 0) -> None:
        self._steps, self.workers = _Steps(batches), workers
        self._iterator: Iterator[TensorBatch] | None = None
        self._next = self._last = -1

    def load(self, step: int, device: torch.device) -> TensorBatch:
        """The batch of a step, on a device."""
        batch = self._made(step)
        return {name: each.to(device, non_blocking=True) for name, each in batch.items()}

    def _made(self, step: int) -> TensorBatch:
        if not self.workers:
            return self._steps[step]
        if self._iterator is None or step != self._next:
            self._restart(step)
        assert self._iterator is not None
        self._last, self._next = step, step + self._stride
        return next(self._iterator)

    def _restart(self, step: int) -> None:
        self._stride = max(step - self._last, 1) if self._last >= 0 else 1
        loader: DataLoader[TensorBatch] = DataLoader(
            self._steps,
            batch_size=None,
            sampler=range(step, _ENDLESS, self._stride),
            num_workers=self.workers,
            prefetch_factor=_AHEAD,
        )
        self._iterator = iter(loader)


class _Steps(Dataset[TensorBatch]):
    """Batches in full precision: a step may run in half, and workers inherit that."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> TensorBatch:
        with torch.autocast("cpu", enabled=False):
            return self.batches[step]

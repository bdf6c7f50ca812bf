"""Copies between host and device that do not wait, and events that say when work is done.

A step on a GPU must never wait for the GPU: the host enqueues the next one while this one runs. So
what goes up is pinned and copied asynchronously, what comes down is awaited by an event, and
nothing else crosses. On a CPU all of this is immediate.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor


class DeviceEvent(Protocol):
    """A mark in the queue of a device."""

    def done(self) -> bool:
        """Whether all work enqueued before the mark is complete."""
        ...

    def wait(self) -> None:
        """Block until it is."""
        ...


class Stream(Protocol):
    """The queue of work of one device, as one host thread uses it."""

    device: torch.device

    def record(self) -> DeviceEvent:
        """Mark what has been enqueued so far."""
        ...

    def download(self, tensor: Tensor) -> Tensor:
        """A copy on the host, complete when an event recorded afterwards is done."""
        ...


class HostEvent:
    """An event of a CPU, whose work is complete when the call returns."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        """Return at once."""


class HostStream:
    """The CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self) -> DeviceEvent:
        return HostEvent()

    def download(self, tensor: Tensor) -> Tensor:
        return tensor.cpu()


class CudaEvent:
    """A recorded CUDA event."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(blocking=True)  # Waiting leaves the core to other threads.
        self._event.record()

    def done(self) -> bool:
        return self._event.query()

    def wait(self) -> None:
        self._event.synchronize()


class CudaStream:
    """The current stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self) -> DeviceEvent:
        return CudaEvent()

    def download(self, tensor: Tensor) -> Tensor:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)


def stream_of(device: torch.device) -> Stream:
    """The stream of a device."""
    return CudaStream(device) if device.type == "cuda" else HostStream(device)


def aside(device: torch.device) -> AbstractContextManager[object]:
    """A queue of its own for this thread's work, so that it does not delay another thread's."""
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))


def upload(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Bring a tensor to a device; from the host through pinned memory, without waiting.

    The host's memory may be reused at once: PyTorch keeps the pinned copy until it has been read.
    """
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device, dtype)
    tensor = tensor.to(dtype) if dtype is not None else tensor
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)

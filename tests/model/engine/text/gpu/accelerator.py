"""torch's CUDA interface on CPU tensors: streams and events that do nothing, and no copies.

Work is done in order when it is issued, so synchronising has nothing to wait for. Installed for
good in a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

CPU = torch.device("cpu")
# The card that is pretended.
CAPABILITY, NUM_UNITS = (9, 0), 132
FREE_BYTES, TOTAL_BYTES = 79 << 30, 80 << 30
_FACTORIES = ("arange", "empty", "empty_like", "full", "ones", "rand", "randn", "tensor", "zeros")


class Event:
    """An event that has always happened."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        pass

    def wait(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


class Stream:
    """A stream whose work is done."""

    cuda_stream = 0
    device = CPU

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_stream(self, *_: Any) -> None:
        pass

    def wait_event(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def record_event(self, *_: Any) -> Event:
        return Event()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _context(*_: Any, **__: Any) -> Iterator[None]:
    yield


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def install() -> None:
    """Replace what vLLM's GPU workers use of `torch.cuda` and `torch.accelerator`."""
    stream = Stream()
    common = {
        "current_stream": _always(stream),
        "empty_cache": _nothing,
        "max_memory_allocated": _always(0),
        "memory_allocated": _always(0),
        "memory_reserved": _always(0),
        "memory_stats": _always({}),
        "reset_peak_memory_stats": _nothing,
        "set_stream": _nothing,
        "synchronize": _nothing,
    }
    cuda = {
        "Event": Event,
        "Stream": Stream,
        "current_device": _always(0),
        "default_stream": _always(stream),
        "device": _context,
        "get_device_capability": _always(CAPABILITY),
        "get_device_properties": _always(types.SimpleNamespace(multi_processor_count=NUM_UNITS)),
        "get_rng_state": _always(torch.empty(0)),
        "is_current_stream_capturing": _always(False),
        "manual_seed_all": _nothing,
        "set_device": _nothing,
        "set_rng_state": _nothing,
        "stream": _context,
    }
    accelerator = {
        "current_accelerator": _always(CPU),
        "current_device_index": _always(0),
        "device_count": _always(1),
        "device_index": _context,
        "get_memory_info": _always((FREE_BYTES, TOTAL_BYTES)),
        "is_available": _always(True),
        "set_device_index": _nothing,
    }
    for module, replaced in (
        (torch.cuda, common | cuda),
        (torch.accelerator, common | accelerator),
    ):
        for name, value in replaced.items():
            setattr(module, name, value)
    torch.cuda.memory.get_allocator_backend = _always("none")
    torch.Event, torch.Stream = Event, Stream  # type: ignore[assignment, misc]
    torch.Tensor.cuda = torch.Tensor.pin_memory = lambda tensor, *_, **__: tensor  # type: ignore
    torch.Tensor.record_stream = _nothing  # type: ignore[assignment]
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A factory of tensors for which CUDA's memory and pinned memory are ordinary memory."""

    @functools.wraps(factory)
    def make(*arguments: Any, **keywords: Any) -> torch.Tensor:
        keywords.pop("pin_memory", None)
        if keywords.get("device") is not None and "cuda" in str(keywords["device"]):
            keywords["device"] = CPU
        return factory(*arguments, **keywords)

    return make

"""A stand-in for a GPU: the meta device, which has no values that could be copied to the host.

`no_host_copies` refuses every operation that would make the host wait for a GPU: copies to the
host, values of tensors as Python numbers, shapes that depend on values, and uploads that block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ACCELERATOR = torch.device("meta")
_aten = torch.ops.aten
_READS = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.is_nonzero.default,
    _aten.equal.default,
}


class HostWaits(AssertionError):
    """The host would wait for the device."""


class _Guard(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        devices = [x.device.type for x in leaves if isinstance(x, Tensor)]
        if "meta" in devices:
            target = kwargs.get("device")
            downward = target is not None and torch.device(target).type == "cpu"
            into_host = func is _aten.copy_.default and devices == ["cpu", "meta"]
            if func in _READS or downward or into_host:
                raise HostWaits(f"{func} reads the device")
        self._check_upload(func, args, kwargs, devices)
        return func(*args, **kwargs)

    def _check_upload(
        self, func: Any, args: Any, kwargs: dict[str, Any], devices: list[str]
    ) -> None:
        target = kwargs.get("device")
        upward = target is not None and torch.device(target).type == "meta"
        if func is _aten._to_copy.default and devices == ["cpu"] and upward:
            blocking = not kwargs.get("non_blocking", False)
        elif func is _aten.copy_.default and devices == ["meta", "cpu"]:
            blocking = not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking", False)
        else:
            return
        if blocking:
            raise HostWaits(f"{func} uploads and waits")


class _NoNumbers(TorchFunctionMode):
    """`torch.tensor` of Python numbers on a GPU copies them from pageable memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target = kwargs.get("device")
        upward = target is not None and torch.device(target).type == "meta"
        if func in (torch.tensor, torch.as_tensor) and upward:
            raise HostWaits(f"{func} uploads and waits")
        return func(*args, **kwargs)


@contextmanager
def no_host_copies() -> Iterator[None]:
    """Refuse operations that make the host wait for the device."""
    with _Guard(), _NoNumbers():
        yield


@dataclass
class FakeEvent:
    """Done once somebody has waited for it or for a later one."""

    number: int
    stream: FakeStream

    def done(self) -> bool:
        return self.number <= self.stream.reached

    def wait(self) -> None:
        self.stream.log.append(f"wait {self.number}")
        self.stream.reached = max(self.stream.reached, self.number)


@dataclass
class FakeStream:
    """A queue whose work is done only when it is waited for; downloads of the meta device are 0.

    Attributes:
        device: where tensors are.
        log: what was recorded, waited for and downloaded.
        reached: the last event that is done.
    """

    device: torch.device = ACCELERATOR
    log: list[str] = field(default_factory=list)
    reached: int = -1
    recorded: int = 0

    @property
    def ahead(self) -> int:
        """Events that are recorded and not done."""
        return self.recorded - 1 - self.reached

    def record(self) -> FakeEvent:
        self.log.append(f"record {self.recorded}")
        self.recorded += 1
        return FakeEvent(self.recorded - 1, self)

    def download(self, tensor: Tensor) -> Tensor:
        self.log.append("download")
        if tensor.device.type == "meta":
            return torch.ones(tensor.shape, dtype=tensor.dtype)
        return tensor.clone()

"""Peak memory of a computation, measured on the meta device.

Inside `LiveBytes` each operation's outputs are counted until they are freed. Attention counts as a
fused kernel, which allocates its output alone, as on a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes:
    """Counts the bytes of tensors created inside the context: `now`, and their maximum `peak`."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()
        self._modes = ExitStack()

    def __enter__(self) -> Self:
        self._modes.enter_context(_FusedAttention())
        self._modes.enter_context(_Allocations(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._modes.close()

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's memory once, until it is freed."""
        storage = tensor.untyped_storage()
        identity = storage._cdata
        if identity in self._known:
            return
        self._known.add(identity)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, identity, size)

    def _free(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self.now -= size


class _Allocations(TorchDispatchMode):
    """Counts every operation's outputs; tensors from outside the context are not counted."""

    def __init__(self, counter: LiveBytes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = counter

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_iter(args) if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata not in given:
                self._counter.add(value)
        return result


class _FusedAttention(TorchFunctionMode):
    """Replaces attention by an allocation of its output."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))

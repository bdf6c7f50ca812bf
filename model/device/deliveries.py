"""Callbacks that the host runs once the device has reached an event."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from model.device.stream import DeviceEvent, Stream


class Deliveries:
    """Calls that wait for events of a stream, in order."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._queue: deque[tuple[DeviceEvent, Callable[[], object]]] = deque()
        self.waited_s = 0.0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, call: Callable[[], object]) -> None:
        """Call once the device has done all that is enqueued so far."""
        self._queue.append((self._stream.record(), call))

    def deliver(self, ahead: int) -> None:
        """Make the calls whose event is done; wait until at most `ahead` remain.

        Raises:
            RuntimeError: work before an event failed. Its call is dropped.
        """
        while self._queue and (len(self._queue) > ahead or self._queue[0][0].done()):
            event, call = self._queue.popleft()
            started = time.perf_counter()
            event.wait()
            self.waited_s += time.perf_counter() - started
            call()

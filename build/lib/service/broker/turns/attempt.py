"""A task that a worker holds, and the attempt at its turn."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.errors import DecodeError
from service.messages import (
    Event,
    ImageTask,
    Request,
    RequestStatus,
    TextTask,
    choice_of,
    decode_task,
)


@dataclass(frozen=True)
class Delivery:
    """An entry of a task stream that this consumer holds."""

    stream: str
    partition: int
    entry_id: str
    payload: bytes

    @property
    def enqueued_ms(self) -> int:
        """Time of enqueueing, by the clock of Redis."""
        return int(self.entry_id.partition("-")[0])

    @functools.cached_property
    def request_id(self) -> str:
        """The request of the task; empty if the task cannot be decoded."""
        try:
            return self.task().request_id
        except DecodeError:
            return ""

    def task(self) -> TextTask | ImageTask:
        """Decode the task.

        Raises:
            DecodeError: it is not a task of this version.
        """
        return decode_task(self.payload)


@dataclass
class AppendTimes:
    """When the events of a turn were appended, from the first to the last; by `time.time_ns`."""

    count: int = 0
    seconds: float = 0.0
    began_ns: int = 0
    ended_ns: int = 0

    def add(self, seconds: float) -> None:
        """Note an append that took `seconds` and is over now."""
        self.ended_ns = time.time_ns()
        if not self.count:
            self.began_ns = self.ended_ns - int(seconds * 1e9)
        self.count += 1
        self.seconds += seconds


@dataclass
class Attempt:
    """A turn in progress in this process, with all events that it has appended.

    Redis may lose its last second of writes in a crash. The attempt then appends the missing events
    again.
    """

    delivery: Delivery
    task: TextTask | ImageTask
    fence: str
    deadline: float
    deliveries: int
    status: RequestStatus
    fields: Mapping[str, bytes]
    first_number: int
    log: list[tuple[Event, str]] = field(default_factory=list)
    appends: AppendTimes = field(default_factory=AppendTimes)

    @property
    def request_id(self) -> str:
        return self.task.request_id

    @property
    def choice(self) -> int | None:
        """Number of the choice that this turn belongs to; None if the request has one answer."""
        return choice_of(self.request_id)

    @property
    def request(self) -> Request:
        return self.status.request

    @property
    def next_number(self) -> int:
        return self.first_number + len(self.log)

    @property
    def cursor(self) -> str:
        """Entry id of the last event before this turn."""
        return self.fields["cursor"].decode()

    @property
    def open_part(self) -> int | None:
        """Index of the part that an earlier attempt has started; None if there is none."""
        return int(self.fields["open"]) if "open" in self.fields else None

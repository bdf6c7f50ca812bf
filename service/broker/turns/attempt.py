"""A task that a worker holds, and its turn in progress."""

from __future__ import annotations

import functools
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
        """When it was enqueued, by the clock of Redis."""
        return int(self.entry_id.partition("-")[0])

    @functools.cached_property
    def request_id(self) -> str:
        """Whose task it is; empty if it cannot be read."""
        try:
            return self.task().request_id
        except DecodeError:
            return ""

    def task(self) -> TextTask | ImageTask:
        """What it asks for.

        Raises:
            DecodeError: it is no task of this version.
        """
        return decode_task(self.payload)


@dataclass
class Attempt:
    """A turn in progress here, and what it has appended: enough to say it again.

    Redis may come back from a crash without its last second of writes. The attempt then repeats
    what is missing, so that a worker that lived through it loses nothing.
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

    @property
    def request_id(self) -> str:
        """Whose turn it is."""
        return self.task.request_id

    @property
    def choice(self) -> int | None:
        """Which of several answers to a request this is part of; None if there is only one."""
        return choice_of(self.request_id)

    @property
    def request(self) -> Request:
        """What was asked."""
        return self.status.request

    @property
    def next_number(self) -> int:
        """The sequence number of the next event."""
        return self.first_number + len(self.log)

    @property
    def cursor(self) -> str:
        """Entry id of the last event before this turn."""
        return self.fields["cursor"].decode()

    @property
    def open_part(self) -> int | None:
        """Index of the part that an earlier attempt has already started."""
        return int(self.fields["open"]) if "open" in self.fields else None

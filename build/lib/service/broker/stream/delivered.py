"""What one reader of a stream has received."""

from __future__ import annotations

from collections import deque

from service.errors import EventsReplaced
from service.messages import StoredEvent

# Redis loses at most about two seconds of events in a crash; an older event is not replaced.
_REMEMBERED = 512


class Delivered:
    """Passes every event on once, and notices when Redis has lost what was passed on.

    After a crash of Redis, a worker appends the lost events again, under new ids: the reader has
    them already. If the worker's attempt was lost too, another attempt writes other events under
    the numbers of the lost ones, and no continuation of what the reader has is right.
    """

    def __init__(self, cursor: str) -> None:
        self.cursor = cursor
        self._number = -1
        self._hashes: deque[int] = deque(maxlen=_REMEMBERED)

    def new(self, events: list[StoredEvent]) -> list[StoredEvent]:
        """The events that the reader does not have; they count as delivered from now on.

        Raises:
            EventsReplaced: another event has the number of a delivered one.
        """
        fresh = []
        for event in events:
            if event.sequence_number > self._number:
                self._number = event.sequence_number
                self._hashes.append(_hash(event))
                fresh.append(event)
            elif order(event.id) > order(self.cursor) and not self._is_same(event):
                raise EventsReplaced
            self.cursor = max(self.cursor, event.id, key=order)
        return fresh

    def _is_same(self, event: StoredEvent) -> bool:
        back = self._number - event.sequence_number + 1
        return back <= len(self._hashes) and self._hashes[-back] == _hash(event)


def order(entry_id: str) -> tuple[int, int]:
    """The key by which Redis orders entry ids."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


def _hash(event: StoredEvent) -> int:
    return hash((event.type, event.raw))

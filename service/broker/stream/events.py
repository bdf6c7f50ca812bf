"""The event stream of a request: read it from any point, and follow it as it grows.

One `EventHub` per process follows any number of requests over one connection: scripts publish what
they append on a channel of the request's own, and the hub hands it to that request's readers. A
reader that falls behind, or a connection that was cut, goes back to the stream itself, which
holds everything until its time to live; numbers tell what was seen already.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator

from redis.asyncio.client import PubSub

from service.broker.connection import RETRIED, Broker, cancel_all, connect
from service.broker.stream.record import parse_event, stored_event
from service.errors import CursorExpired, InvalidCursor, RequestNotFound
from service.messages import StoredEvent
from service.metrics import BROKER_ERRORS, LAGGING_STREAMS, OPEN_STREAMS

logger = logging.getLogger(__name__)

_CURSOR = re.compile(r"^\d{1,20}(-\d{1,20})?$")
_CHUNK = 128
_SUBSCRIBE_SECONDS = 0.5
START = "0-0"


def parse_cursor(cursor: str | None) -> str:
    """The entry id to read after; None is the start.

    Raises:
        InvalidCursor: it is not an event id.
    """
    if not cursor:
        return START
    if not _CURSOR.match(cursor):
        raise InvalidCursor(param="after")
    return cursor if "-" in cursor else f"{cursor}-0"


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


async def read_events(
    broker: Broker, request_id: str, after: str = START, count: int = _CHUNK
) -> list[StoredEvent]:
    """Up to `count` events after an entry id."""
    reply = await broker.call(
        "XRANGE", broker.keys.events(request_id), f"({after}", "+", "COUNT", count
    )
    return [parse_event(request_id, entry_id, fields) for entry_id, fields in reply]


async def check_cursor(broker: Broker, request_id: str, after: str) -> None:
    """Make sure that everything after `after` can still be read.

    Raises:
        RequestNotFound: there is no such request (any more).
        CursorExpired: its events are gone, or the id is of another history.
    """
    known = await broker.call("EXISTS", broker.keys.request(request_id))
    reply = await broker.call("XREVRANGE", broker.keys.events(request_id), "+", "-", "COUNT", 1)
    if not reply:
        raise CursorExpired if known else RequestNotFound
    if after != START and _order(after) > _order(reply[0][0].decode()):
        raise CursorExpired


class Follower:
    """One reader of one request: a bounded buffer that falls back to the stream."""

    def __init__(self, max_buffered: int) -> None:
        self.max_buffered = max_buffered
        self.buffer: deque[StoredEvent] = deque()
        self.behind = True
        self.wake = asyncio.Event()

    def push(self, events: list[StoredEvent]) -> None:
        """Hand over live events; too many, and the reader has to catch up by itself."""
        if self.behind:
            return
        if len(self.buffer) + len(events) > self.max_buffered:
            LAGGING_STREAMS.inc()
            self.catch_up()
            return
        self.buffer.extend(events)
        self.wake.set()

    def catch_up(self) -> None:
        """Go back to the stream: live events may have been missed."""
        self.buffer.clear()
        self.behind = True
        self.wake.set()


class EventHub:
    """All event streams that this process follows, over one connection."""

    def __init__(self, broker: Broker, max_buffered: int = 256) -> None:
        self._broker = broker
        self._max_buffered = max_buffered
        self._followers: defaultdict[str, set[Follower]] = defaultdict(set)
        self._client = connect(broker.settings, read_timeout_s=3600)
        self._pubsub: PubSub | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the shared reader."""
        self._task = asyncio.create_task(self._run(), name="event-hub")

    async def stop(self) -> None:
        """Stop the shared reader; followers end."""
        if self._task:
            await cancel_all([self._task])
        await self._client.aclose()

    @property
    def num_followers(self) -> int:
        """Readers at the moment."""
        return sum(len(followers) for followers in self._followers.values())

    async def follow(
        self, request_id: str, after: str | None = None, ping_s: float = 15.0
    ) -> AsyncIterator[StoredEvent | None]:
        """Yield the events of `follow_batches` one by one, None for an empty batch."""
        follower = self.follow_batches(request_id, after, ping_s)
        async with contextlib.aclosing(follower) as batches:  # type: ignore[type-var]
            async for batch in batches:
                for event in batch or (None,):
                    yield event

    async def follow_batches(
        self, request_id: str, after: str | None = None, ping_s: float = 15.0
    ) -> AsyncIterator[list[StoredEvent]]:
        """Yield the events after `after` (all, if None) up to the terminal one, as they come.

        An empty batch is yielded when nothing came for `ping_s` seconds.

        Raises:
            RequestNotFound: there is no such request (any more).
            CursorExpired: the events after `after` are gone.
            InvalidCursor: `after` is not an event id.
            ConnectionLost: Redis stayed away for too long.
        """
        cursor = parse_cursor(after)
        if cursor != START:
            await check_cursor(self._broker, request_id, cursor)
        follower = Follower(self._max_buffered)
        await self._add(request_id, follower)
        OPEN_STREAMS.inc()
        try:
            number = -1
            while True:
                events = await self._next(request_id, follower, cursor, ping_s)
                if not events:
                    await self._check_alive(request_id)
                    yield []
                if events := [event for event in events if event.sequence_number > number]:
                    yield events
                    cursor, number = events[-1].id, events[-1].sequence_number
                    if events[-1].terminal:
                        return
        finally:
            OPEN_STREAMS.dec()
            await self._remove(request_id, follower)

    async def _next(
        self, request_id: str, follower: Follower, cursor: str, ping_s: float
    ) -> list[StoredEvent]:
        """The next events for a reader; empty when nothing came for `ping_s`."""
        if not follower.behind and not follower.buffer:
            try:
                # Not `wait_for`, which can lose a cancellation that comes together with an event.
                async with asyncio.timeout(ping_s):
                    await follower.wake.wait()
            except TimeoutError:
                # Whatever the reason for the silence, the stream itself has the last word.
                return await read_events(self._broker, request_id, cursor)
        follower.wake.clear()
        if follower.behind:
            follower.behind = False
            events = await read_events(self._broker, request_id, cursor)
            if len(events) == _CHUNK:
                follower.catch_up()
            if events:
                return events
            if cursor == START:
                await check_cursor(self._broker, request_id, cursor)
            return await self._next(request_id, follower, cursor, ping_s)
        events = list(follower.buffer)
        follower.buffer.clear()
        return events

    async def _check_alive(self, request_id: str) -> None:
        """A request whose events expired, or were lost, must not be waited for."""
        if not await self._broker.call("EXISTS", self._broker.keys.events(request_id)):
            raise CursorExpired

    async def _add(self, request_id: str, follower: Follower) -> None:
        channel = self._broker.keys.events(request_id)
        self._followers[channel].add(follower)
        if len(self._followers[channel]) == 1 and self._pubsub is not None:
            await self._command("subscribe", channel)
            # Reading now would be for nothing: once subscribed, it has to be read again.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(follower.wake.wait(), _SUBSCRIBE_SECONDS)

    async def _remove(self, request_id: str, follower: Follower) -> None:
        channel = self._broker.keys.events(request_id)
        self._followers[channel].discard(follower)
        if not self._followers[channel]:
            del self._followers[channel]
            if self._pubsub is not None:
                await self._command("unsubscribe", channel)

    async def _command(self, name: str, channel: str) -> None:
        """(Un)subscribe; a lost connection is the shared reader's business, which starts over."""
        try:
            await getattr(self._pubsub, name)(channel)
        except RETRIED:
            BROKER_ERRORS.inc()

    async def _run(self) -> None:
        """Keep one subscribed connection, and start over whenever it is lost."""
        pause_s = 0.05
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(self._broker.keys.load(0) + ":hub")
                    self._pubsub = pubsub
                    if self._followers:
                        await pubsub.subscribe(*self._followers)
                    pause_s = 0.05
                    await self._dispatch(pubsub)
            except RETRIED as error:
                logger.warning("event connection lost: %s", type(error).__name__)
                BROKER_ERRORS.inc()
                await asyncio.sleep(pause_s)
                pause_s = min(1.0, 2 * pause_s)
            finally:
                self._pubsub = None

    async def _dispatch(self, pubsub: PubSub) -> None:
        """Hand every message to the readers of its channel."""
        while True:
            message = await pubsub.get_message(timeout=None)
            if message is None:
                continue
            channel = message["channel"].decode()
            followers = self._followers.get(channel, ())
            if message["type"] == "subscribe":
                # From here on nothing is missed; what came before lies in the stream.
                for follower in followers:
                    follower.catch_up()
            elif message["type"] == "message" and followers:
                request_id = channel.rpartition(":")[2]
                batch = [stored_event(request_id, *entry) for entry in json.loads(message["data"])]
                for follower in followers:
                    follower.push(batch)

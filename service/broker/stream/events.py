"""The event stream of a request: read it from any point, and follow it as it grows.

One `EventHub` per process follows any number of requests over one connection: scripts publish what
they append on the request's channel, and the hub passes it to that request's readers. A reader that
falls behind, or whose connection was lost, reads the stream again, which keeps all events until its
time to live; sequence numbers show which of them were delivered before.
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

from service.broker.redis.connection import Broker, cancel_all, translated_errors
from service.broker.redis.urls import connect
from service.broker.stream.delivered import Delivered
from service.broker.stream.record import parse_event, stored_event
from service.errors import BrokerError, CursorExpired, InvalidCursor, RequestNotFound
from service.messages import StoredEvent
from service.telemetry.metrics import LAGGING_STREAMS, OPEN_STREAMS

logger = logging.getLogger(__name__)

_CURSOR = re.compile(r"^\d{1,20}(-\d{1,20})?$")
_CHUNK = 128
_SUBSCRIBE_SECONDS = 0.5
_FIRST_PAUSE_S = 0.05
START = "0-0"


def parse_cursor(cursor: str | None) -> str:
    """The entry id to read after; None means the start.

    Raises:
        InvalidCursor: `cursor` is not an event id.
    """
    if not cursor:
        return START
    if not _CURSOR.match(cursor):
        raise InvalidCursor(param="after")
    return cursor if "-" in cursor else f"{cursor}-0"


async def read_events(
    broker: Broker, request_id: str, after: str = START, count: int = _CHUNK
) -> list[StoredEvent]:
    """Read up to `count` events after an entry id."""
    reply = await broker.call(
        "XRANGE", broker.keys.events(request_id), f"({after}", "+", "COUNT", count
    )
    return [parse_event(request_id, entry_id, fields) for entry_id, fields in reply]


async def check_cursor(broker: Broker, request_id: str, after: str) -> None:
    """Check that all events after `after` can still be read.

    Raises:
        RequestNotFound: the request does not exist or has expired.
        CursorExpired: its events have expired, or there is none with the id `after`: it is of
            another request, or Redis has lost it.
    """
    known = await broker.call("EXISTS", broker.keys.request(request_id))
    first, last = ("-", "+") if after == START else (after, after)
    reply = await broker.call("XRANGE", broker.keys.events(request_id), first, last, "COUNT", 1)
    if not reply:
        raise CursorExpired if known else RequestNotFound


class Follower:
    """One reader of one request: a bounded buffer of live events.

    A reader that is `behind` has to read the stream before it takes live events.
    """

    def __init__(self, max_buffered: int) -> None:
        self.max_buffered = max_buffered
        self.buffer: deque[StoredEvent] = deque()
        self.behind = True
        self.wake = asyncio.Event()

    def push(self, events: list[StoredEvent]) -> None:
        """Buffer live events; if there is no room for them, the reader falls behind."""
        if self.behind:
            return
        if len(self.buffer) + len(events) > self.max_buffered:
            LAGGING_STREAMS.inc()
            self.catch_up()
            return
        self.buffer.extend(events)
        self.wake.set()

    def catch_up(self) -> None:
        """Have the reader read the stream next: it may have missed live events."""
        self.buffer.clear()
        self.behind = True
        self.wake.set()


class EventHub:
    """Follows the event streams of any number of requests over one connection."""

    def __init__(self, broker: Broker, max_buffered: int = 256) -> None:
        self._broker = broker
        self._max_buffered = max_buffered
        self._followers: defaultdict[str, set[Follower]] = defaultdict(set)
        self._client = connect(broker.settings, read_timeout_s=3600)
        self._pubsub: PubSub | None = None
        self._task: asyncio.Task[None] | None = None
        self._pause_s = _FIRST_PAUSE_S

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="event-hub")

    async def stop(self) -> None:
        if self._task:
            await cancel_all([self._task])
        await self._client.aclose()

    @property
    def num_followers(self) -> int:
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
        """Yield the events after `after` (all, if None) up to the terminal one, as they arrive.

        Yields an empty batch whenever no event arrived for `ping_s` seconds.

        Raises:
            RequestNotFound: the request does not exist or has expired.
            CursorExpired: the events after `after` have expired.
            EventsReplaced: Redis has lost delivered events, and others took their place.
            InvalidCursor: `after` is not an event id.
            ConnectionLost: Redis was unreachable for `redis_retry_s`.
        """
        cursor = parse_cursor(after)
        if cursor != START:
            await check_cursor(self._broker, request_id, cursor)
        follower = Follower(self._max_buffered)
        await self._add(request_id, follower)
        OPEN_STREAMS.inc()
        try:
            delivered = Delivered(cursor)
            while True:
                events = await self._next(request_id, follower, delivered.cursor, ping_s)
                if not events:
                    await self._check_alive(request_id)
                    yield []
                if events := delivered.new(events):
                    yield events
                    if events[-1].terminal:
                        return
        finally:
            OPEN_STREAMS.dec()
            await self._remove(request_id, follower)

    async def _next(
        self, request_id: str, follower: Follower, cursor: str, ping_s: float
    ) -> list[StoredEvent]:
        """The next events for a reader; empty if none arrived for `ping_s`."""
        if not follower.behind and not follower.buffer:
            try:
                # Not `wait_for`: it can lose a cancellation that arrives together with an event.
                async with asyncio.timeout(ping_s):
                    await follower.wake.wait()
            except TimeoutError:
                # A published event may have been lost; the stream has them all.
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
        """Raise `CursorExpired` if the events have expired: no more will arrive."""
        if not await self._broker.call("EXISTS", self._broker.keys.events(request_id)):
            raise CursorExpired

    async def _add(self, request_id: str, follower: Follower) -> None:
        channel = self._broker.keys.events(request_id)
        self._followers[channel].add(follower)
        if len(self._followers[channel]) == 1 and self._pubsub is not None:
            await self._command("subscribe", channel)
            # Reading the stream before the subscription is confirmed would miss events.
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
        """Subscribe or unsubscribe; if the connection is lost, `_run` subscribes to all again."""
        with contextlib.suppress(BrokerError), translated_errors():
            await getattr(self._pubsub, name)(channel)

    async def _run(self) -> None:
        """Keep one connection subscribed to the channels of all followers."""
        while True:
            try:
                with translated_errors():
                    await self._listen()
            except BrokerError as error:
                logger.warning("event connection lost: %s", error.__cause__)
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(1.0, 2 * self._pause_s)
            finally:
                self._pubsub = None

    async def _listen(self) -> None:
        async with self._client.pubsub() as pubsub:
            await pubsub.subscribe(self._broker.keys.hub())
            self._pubsub = pubsub
            if self._followers:
                await pubsub.subscribe(*self._followers)
            self._pause_s = _FIRST_PAUSE_S
            await self._dispatch(pubsub)

    async def _dispatch(self, pubsub: PubSub) -> None:
        """Pass every message to the readers of its channel."""
        while True:
            message = await pubsub.get_message(timeout=None)
            if message is None:
                continue
            channel = message["channel"].decode()
            followers = self._followers.get(channel, ())
            if message["type"] == "subscribe":
                # Later events arrive as messages; earlier ones are in the stream.
                for follower in followers:
                    follower.catch_up()
            elif message["type"] == "message" and followers:
                request_id = channel.rpartition(":")[2]
                batch = [stored_event(request_id, *entry) for entry in json.loads(message["data"])]
                for follower in followers:
                    follower.push(batch)

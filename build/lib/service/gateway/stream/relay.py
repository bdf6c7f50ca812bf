"""Following a request on behalf of its client: as a stream, or until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from fastapi import Request as HttpRequest

from service.broker.stream.events import EventHub
from service.broker.turns.queue import Queue
from service.errors import ConnectionLost, CursorExpired, EventsReplaced, RequestNotFound
from service.gateway.stream.answers import Answers
from service.gateway.stream.race import Race
from service.gateway.stream.sse import PING, RETRY, EventStreamResponse, client_left, frame
from service.messages import Request, StoredEvent
from service.telemetry import tracing
from service.telemetry.metrics import TIME_TO_FIRST_EVENT

logger = logging.getLogger(__name__)

_FIRST_PARTS = frozenset({"text.delta", "image.progress", "image.done"})


class Relay:
    """Sends the events of requests to their clients."""

    def __init__(self, queue: Queue, hub: EventHub, answers: Answers, ping_s: float) -> None:
        self._queue, self._hub, self._answers = queue, hub, answers
        self._ping_s = ping_s
        self.stopping = asyncio.Event()

    def stream(
        self, request: Request, after: str | None, headers: dict[str, str], *, owns: bool
    ) -> EventStreamResponse:
        """The events of a request after a cursor. If `owns`, leaving may cancel the request."""
        return self.custom(self._frames(request, after), request, headers, owns=owns)

    def custom(
        self, frames: AsyncIterator[bytes], request: Request, headers: dict[str, str], *, owns: bool
    ) -> EventStreamResponse:
        """Frames of another format; see `stream`."""

        async def on_leave() -> None:
            if owns and request.cancel_on_disconnect:
                await self.cancel(request.request_id)

        return EventStreamResponse(frames, on_leave, self.stopping, headers)

    async def documents(
        self, request: Request, after: str | None = None
    ) -> AsyncIterator[list[tuple[StoredEvent, str]]]:
        """Batches of events with the client's JSON; an empty batch when a keep-alive is due.

        Ends early when the events cannot be read any more, or when what was sent has been lost
        and replaced: the client resumes, and that request is answered with the error's status.
        """
        started, first = time.monotonic(), after is None
        started_ns, num_events = time.time_ns(), 0
        follower = self._hub.follow_batches(request.request_id, after, self._ping_s)
        try:
            async with contextlib.aclosing(follower) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    if first and any(event.type in _FIRST_PARTS for event in batch):
                        TIME_TO_FIRST_EVENT.observe(time.monotonic() - started)
                        first = False
                    num_events += len(batch)
                    yield [(event, await self._answers.event(event, request)) for event in batch]
        except (ConnectionLost, CursorExpired, RequestNotFound):
            logger.warning("a stream ended early")
        finally:
            attributes = {"mmi.events": num_events}
            tracing.record("relay", started_ns, time.time_ns(), attributes=attributes)

    async def _frames(self, request: Request, after: str | None) -> AsyncIterator[bytes]:
        head = RETRY
        documents = self.documents(request, after)
        async with contextlib.aclosing(documents) as batches:  # type: ignore[type-var]
            async for batch in batches:
                frames = [frame(event.id, event.type, data) for event, data in batch]
                yield head + (b"".join(frames) or PING)
                head = b""

    async def wait(self, http: HttpRequest, request: Request) -> bool:
        """Wait for the end of a request; False if its client leaves or this process stops first."""
        ended = self._end(request.request_id)
        with tracing.span("relay"):
            async with Race(ended, client_left(http.receive), self.stopping.wait()) as race:
                first = await race.first()
        if first == 0:
            return True
        if first == 1 and request.cancel_on_disconnect:
            await self.cancel(request.request_id)
        return False

    async def _end(self, request_id: str) -> None:
        """Return when the request has ended."""
        while True:
            # Nothing was sent yet, so that replaced events can be followed from the start.
            with contextlib.suppress(EventsReplaced):
                follower = self._hub.follow(request_id, None, self._ping_s)
                async with contextlib.aclosing(follower) as events:  # type: ignore[type-var]
                    async for event in events:
                        if event is not None and event.terminal:
                            return

    async def cancel(self, request_id: str) -> None:
        """Cancel a request whose client has left."""
        with contextlib.suppress(RequestNotFound, ConnectionLost):
            await self._queue.cancel(request_id)

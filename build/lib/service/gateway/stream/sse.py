"""Server-sent events: frames, keep-alive, slow readers, and clients that leave.

Not sse-starlette's response: that one learns of a stop through process-wide state and a patched
uvicorn, pings at fixed times even while events flow, and has no last frame for a stopping server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.gateway.stream.race import Race

PING = b": ping\n\n"
RETRY = b"retry: 1000\n\n"
GOODBYE = b": this server is stopping; reconnect with Last-Event-ID\nretry: 200\n\n"
_STALLED_SECONDS = 60.0


def frame(event_id: str, event_type: str, data: str) -> bytes:
    """One event; `data` is JSON and so has no line breaks."""
    return f"id: {event_id}\nevent: {event_type}\ndata: {data}\n\n".encode()


class EventStreamResponse(Response):
    """Streams frames; awaits `on_leave` if the client leaves before the end.

    A client that reads nothing for a minute counts as gone. Frames are not buffered: the socket's
    back-pressure slows down this stream alone.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        on_leave: Callable[[], Awaitable[None]],
        stopping: asyncio.Event,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(headers={**(headers or {}), "X-Accel-Buffering": "no"})
        # The length is unknown.
        del self.headers["content-length"]
        self._frames = frames
        self._on_leave, self._stopping = on_leave, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the frames end, the client has left, or this process stops."""
        async with Race(self._send_all(send), client_left(receive), self._stopping.wait()) as race:
            try:
                first = await race.first()
            except OSError:
                first = 1
        if first == 1:
            await self._on_leave()
        elif first == 2:
            await send({"type": "http.response.body", "body": GOODBYE, "more_body": False})

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        async with contextlib.aclosing(self._frames) as frames:  # type: ignore[type-var]
            async for data in frames:
                message = {"type": "http.response.body", "body": data, "more_body": True}
                # TimeoutError is an OSError: a stalled reader counts as a lost connection.
                async with asyncio.timeout(_STALLED_SECONDS):
                    await send(message)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def client_left(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass

"""The response of a stream: frames, leaving, stalling and stopping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.gateway.stream import sse
from service.gateway.stream.sse import GOODBYE, EventStreamResponse, frame


class Connection:
    """One side of an ASGI connection: keeps what is sent; `leave` closes it."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.stalls = False

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if self.stalls and message.get("body"):
            await asyncio.sleep(30)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b": ping\n\n"
        await asyncio.sleep(0.001)


async def two() -> AsyncIterator[bytes]:
    yield frame("1-0", "a", "{}")
    yield frame("1-1", "b", "{}")


async def run(
    frames: AsyncIterator[bytes], connection: Connection, stopping: asyncio.Event
) -> list[str]:
    left = []

    async def on_leave() -> None:
        left.append("left")

    response = EventStreamResponse(frames, on_leave, stopping)
    await response({"type": "http"}, connection.receive, connection.send)
    return left


async def test_frames_are_sent_to_the_end() -> None:
    connection = Connection()

    assert await run(two(), connection, asyncio.Event()) == []
    headers = dict(connection.sent[0]["headers"])
    assert headers[b"x-accel-buffering"] == b"no" and b"content-length" not in headers
    assert connection.body == b"id: 1-0\nevent: a\ndata: {}\n\nid: 1-1\nevent: b\ndata: {}\n\n"
    assert connection.sent[-1]["more_body"] is False


async def test_a_client_that_leaves_is_reported() -> None:
    connection = Connection()
    asyncio.get_running_loop().call_later(0.02, connection.left.set)

    assert await run(endless(), connection, asyncio.Event()) == ["left"]


async def test_a_client_that_reads_nothing_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_STALLED_SECONDS", 0.02)
    connection = Connection()
    connection.stalls = True

    assert await run(endless(), connection, asyncio.Event()) == ["left"]


async def test_a_server_that_stops_says_goodbye() -> None:
    connection, stopping = Connection(), asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, stopping.set)

    assert await run(endless(), connection, stopping) == []
    assert connection.body.endswith(GOODBYE)

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from service.bench.gateway.reader import Reading, read_head, read_names, read_stream


def test_a_delta_of_several_tokens_counts_each() -> None:
    reading = Reading()
    reading.note(0, "1 2 3 ")
    assert len(reading.delays_ms) == 3 and reading.first_ms == reading.last_ms > 0


@asynccontextmanager
async def gateway(status: str, events: list[dict[str, Any]]) -> AsyncIterator[int]:
    """A server that answers every request with these events; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        assert json.loads(await reader.readexactly(length))["max_tokens"] == 2
        writer.write(f"HTTP/1.1 {status}\r\nRetry-After: 3\r\n\r\n".encode())
        for event in events:
            writer.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def stream() -> list[dict[str, Any]]:
    deltas = [{"type": "text.delta", "text": f"{time.monotonic_ns()} "} for _ in range(2)]
    return [*deltas, {"type": "response.completed"}, {"type": "text.delta", "text": "1 "}]


async def test_a_stream_is_read_to_its_end() -> None:
    async with gateway("200 OK", stream()) as port:
        reading = await read_stream(port, 2)
        names = [name async for name in read_names(port, 2)]
    assert len(reading.delays_ms) == 2
    assert names == ["HTTP/1.1 200 OK", "text.delta", "text.delta", "response.completed"]


async def test_the_head_of_a_refusal() -> None:
    async with gateway("429 Too Many Requests", []) as port:
        head = await read_head(port, 2)
    assert (head.status, head.headers) == (429, {"retry-after": "3"})
    assert head.ms > 0
